"""The pages: one for every objective, in step with its settings, and no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diffalign.cli.app import app
from diffalign.config.objectives import ObjectiveFacts
from diffalign.config.yaml_values import read_yaml
from diffalign.data import read_records
from diffalign.objectives import OBJECTIVES
from tests.data.pictures import picture_file, write_rows

ROOT = Path(__file__).parents[1]
METHODS = ROOT / "docs" / "methods"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHARED = {"flow_dpo": "diffusion_dpo"}  # objectives without a page of their own -> whose page names them


def page_of(name: str) -> Path:
    return METHODS / f"{SHARED.get(name, name)}.md"


def objective_blocks(page: Path) -> list[dict[str, Any]]:
    """The `objective:` sections of a page's YAML blocks, in their order."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [section for block in blocks if (section := read_yaml(block).get("objective"))]


def rows_of(text: str) -> list[list[str]]:
    """The cells of every table row."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def settings_of(params: type[ObjectiveFacts]) -> dict[str, Any]:
    return {key: field.default for key, field in params.model_fields.items() if key != "name"}


def links_of(page: Path) -> list[str]:
    """Where a page's relative links lead, without what stands in code blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def headings_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_page_that_names_it(name):
    page = page_of(name)
    assert page.is_file(), f"write {page.relative_to(ROOT)}"
    (named,) = [cells[1] for cells in rows_of(page.read_text(encoding="utf-8")) if cells[0] == "objective"]
    assert f"`{name}`" in named


def test_no_page_is_of_an_objective_that_is_not_there():
    assert {page.stem for page in METHODS.glob("*.md")} - {"README"} == {page_of(name).stem for name in OBJECTIVES}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_first_yaml_block_is_valid(name):
    blocks = objective_blocks(page_of(name))
    assert blocks[0]["name"] == page_of(name).stem
    block = next(block for block in blocks if block["name"] == name)
    assert OBJECTIVES[name].params.model_validate(block).name == name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_stands_there_with_its_default(name):
    """Rows look like: `beta` or `beta` (flow_dpo) | 5000 | source."""
    rows = rows_of(page_of(name).read_text(encoding="utf-8"))
    shown = {
        setting: cells[1]
        for cells in rows
        for setting in settings_of(OBJECTIVES[name].params)
        if cells[0] in (f"`{setting}`", f"`{setting}` ({name})")
    }
    expected = settings_of(OBJECTIVES[name].params)
    assert shown.keys() == expected.keys()
    assert {setting: read_yaml(default) for setting, default in shown.items()} == expected


@pytest.mark.parametrize("name", OBJECTIVES)
def test_page_says_what_goes_in_and_who_trains_it(name):
    params = OBJECTIVES[name].params
    facts = {cells[0]: cells[1] for cells in rows_of(page_of(name).read_text(encoding="utf-8"))[:10]}
    for needed in (params.first, *params.needs, *params.optional):
        assert f"`{needed}`" in facts["inputs"], needed
    assert ("own trainer" in facts["trained by"]) == params.online
    assert (f"quickstart/{name}.yaml" in facts.get("quickstart", "")) != params.online
    assert params.families == "any" or "flow models" in facts["models"]


def test_overview_lists_each_objective_once_with_who_trains_it():
    rows = [cells for cells in rows_of((METHODS / "README.md").read_text(encoding="utf-8")) if "](" in cells[0]]
    listed = [re.fullmatch(r"\[`(\w+)`\]\((\w+)\.md\)", cells[0]).groups() for cells in rows]  # type: ignore[union-attr]
    assert sorted(name for name, _ in listed) == sorted(OBJECTIVES)
    for (name, page), cells in zip(listed, rows, strict=True):
        assert page == page_of(name).stem
        assert cells[1] == ("own" if OBJECTIVES[name].params.online else "yes"), name
        assert cells[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in headings_of(target), f"{link}: no such heading"


def test_the_readme_leads_to_the_methods():
    assert "docs/methods/README.md" in links_of(ROOT / "README.md")


def test_python_in_the_overview_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", (METHODS / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["out"].loss.shape == (2,)
    assert {"ratio", "approx_kl", "clip_fraction"} == namespace["out"].metrics.keys()


def test_groups_of_ones_own_pictures(tmp_path, monkeypatch):
    """The commands of docs/data.md, as they stand there, make a file that `data.kind: groups` reads."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    commands = {line.split()[1]: line.split()[1:] for line in re.findall(r"^    (diffalign .*)$", text, re.MULTILINE)}
    (tmp_path / "drawn").mkdir()  # by another model than the page's, to save the time
    rows = [{"prompt": "p", "file_name": "0.png"}, {"prompt": "p", "file_name": "1.png"}]
    write_rows(tmp_path / "drawn" / "metadata.jsonl", rows)
    for number, row in enumerate(rows):
        (tmp_path / "drawn" / row["file_name"]).write_bytes(picture_file(number))
    monkeypatch.chdir(tmp_path)
    for name in ("score", "pair"):
        result = CliRunner().invoke(app, commands[name])
        assert result.exit_code == 0, result.exception
    (record,) = read_records(tmp_path / "groups.jsonl", "groups")
    assert len(record.items) == 2 and record.rewards is not None and record.rewards[0] >= record.rewards[1]
    assert all(isinstance(item, Path) and item.is_file() for item in record.items)
