"""The pages: one for every objective, in step with its settings, and no link that leads nowhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from typer.testing import CliRunner

from diffalign.cli import app
from diffalign.config.objectives import ObjectiveFacts
from diffalign.config.run import HealthConfig
from diffalign.config.sample_rewards import own_settings
from diffalign.config.samplers import SAMPLER_PARAMS, WindowParams
from diffalign.config.yaml_values import read_yaml
from diffalign.data import read_records
from diffalign.objectives import OBJECTIVES
from diffalign.rewards import REWARDS, Audio
from tests.data.pictures import picture_file, write_rows
from tests.rewards.sounds import note

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
    assert ("online.md" in facts["trained by"]) == params.online
    shipped = (ROOT / "configs" / "quickstart" / f"{name}.yaml").exists()
    assert (f"quickstart/{name}.yaml" in facts.get("quickstart", "")) == shipped
    assert shipped or params.online
    assert params.families == "any" or "flow models" in facts["models"]


def test_overview_lists_each_objective_once_with_who_trains_it():
    rows = [cells for cells in rows_of((METHODS / "README.md").read_text(encoding="utf-8")) if "](" in cells[0]]
    listed = [re.fullmatch(r"\[`(\w+)`\]\((\w+)\.md\)", cells[0]).groups() for cells in rows]  # type: ignore[union-attr]
    assert sorted(name for name, _ in listed) == sorted(OBJECTIVES)
    for (name, page), cells in zip(listed, rows, strict=True):
        assert page == page_of(name).stem
        assert cells[1] == ("online" if OBJECTIVES[name].params.online else "yes"), name
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
    """The commands of docs/data.md make a file that `data.kind: groups` reads."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^    diffalign ((?:score|pair) .*)", text, re.MULTILINE)]
    (tmp_path / "drawn").mkdir()
    rows = [{"prompt": "p", "file_name": "0.png"}, {"prompt": "p", "file_name": "1.png"}]
    write_rows(tmp_path / "drawn" / "metadata.jsonl", rows)
    for number, row in enumerate(rows):
        (tmp_path / "drawn" / row["file_name"]).write_bytes(picture_file(number))
    monkeypatch.chdir(tmp_path)
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    (record,) = read_records(tmp_path / "groups.jsonl", "groups")
    assert len(record.items) == 2 and record.rewards is not None and record.rewards[0] >= record.rewards[1]


def test_code_about_sets(tmp_path, monkeypatch):
    """The blocks of docs/set_rewards.md and of DRAGON's page, with a few pictures in the places that they name."""
    generator = torch.Generator().manual_seed(0)
    pictures, others = torch.rand(2, 6, 3, 16, 16, generator=generator)
    evaluation = "runs/dragon_vendi-20260101-120000/evaluation"  # as the page has it
    for folder in ("reference_pictures", f"{evaluation}/base", f"{evaluation}/aligned"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            (tmp_path / folder / f"{number}.png").write_bytes(picture_file(number))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {
        "torch": torch, "pictures": pictures, "others": others,
        "reference_latents": torch.randn(9, 4, 2, 2, generator=generator),
    }  # fmt: skip
    for page in (ROOT / "docs" / "set_rewards.md", METHODS / "dragon.md"):
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            exec(code, namespace)
    assert namespace["side"] == "aligned" and len(namespace["files"]) == 3
    assert namespace["diversity"].shape == () and namespace["nearness"] < 0
    assert namespace["label"].abs().sum() == 12
    assert (tmp_path / "reference.safetensors").is_file()


_PAGES = {"http": "remote"}  # rewards whose page has another name


def test_the_pages_of_rewards_say_what_the_settings_say():
    home = ROOT / "docs" / "rewards"
    rows = {cells[0]: cells for cells in rows_of((home / "README.md").read_text(encoding="utf-8"))[2:]}
    listed = {re.sub(r"[^a-z_]", "", re.sub(r"\(.*\)", "", name)): cells for name, cells in rows.items()}
    assert listed.keys() == REWARDS.keys()
    for name, entry in REWARDS.items():
        fields = {key: entry.params.model_fields[key] for key in own_settings(entry.params)}
        settings = {key: "required" if field.is_required() else field.default for key, field in fields.items()}
        assert re.findall(r"`(\w+)`", listed[name][4]) == list(settings), name
        page = home / f"{_PAGES.get(name, name)}.md"
        if "reference" in entry.spec.needs and not page.is_file():
            page = home / "full_reference.md"
        if page.is_file():
            shown = {cells[0]: cells[1] for cells in rows_of(page.read_text(encoding="utf-8"))}
            assert {key: read_yaml(shown[f"`{key}`"]) for key in settings} == settings


def test_code_about_rewards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    namespace: dict[str, Any] = {
        "pictures": pictures, "prompts": ['a sign "x"'],
        "originals": pictures.flip(-1), "restored": pictures, "originals_tensor": pictures.flip(-1),
        "waveform": note(69, 1.0), "rate": 22050,
        "good_sounds": [Audio(note(60, 3.6), 22050)], "sounds": [Audio(note(72, 3.6), 22050)],
    }  # fmt: skip
    for page in sorted((ROOT / "docs" / "rewards").glob("*.md")):
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            exec(code, namespace)
    assert namespace["scores"].shape == (1,) and 0 < namespace["loss"] < 2
    assert namespace["quality"] > 1 and namespace["played"].shape == (1,)
    assert namespace["distance"] < 0 and namespace["each"].shape == (1,)


def test_the_page_of_samplers_says_what_the_settings_say():
    rows = {cells[0]: cells for cells in rows_of((ROOT / "docs" / "samplers.md").read_text(encoding="utf-8"))}
    for params in SAMPLER_PARAMS:
        cells = rows[f"`{params.model_fields['name'].default}`"]
        assert cells[1:5] == [str(params.order), str(params.calls), params.noise, params.families]
        assert cells[6] == params.source
    for key, field in WindowParams.model_fields.items():
        assert rows[f"`{key}`"][1] == ("" if field.is_required() else str(field.default).lower()), key


def test_the_trajectory_of_the_page_of_samplers_runs():
    text = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["scores"].log_prob.shape == (2, 2, 4)


def test_inversion_by_itself_comes_back():
    text = (METHODS / "smpo.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    x0, back = namespace["x0"], namespace["back"]
    assert (back - x0).square().sum() < 0.01 * x0.square().sum()


def test_best_of_n_on_the_page_of_data():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    best = namespace["best"]
    assert best.scores.shape == (2, 4)
    assert torch.equal(best.scores.gather(1, best.chosen[:, None])[:, 0], best.scores.amax(dim=1))


@pytest.mark.parametrize("page", ["online.md", "people.md"])
def test_the_command_of_a_run_that_people_judge(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^    diffalign train (--config .*preference=human.*)", text, re.MULTILINE)
    result = CliRunner().invoke(app, ["check", *shlex.split(line)])
    assert result.exit_code == 0, result.exception
    assert "a round: 32 pictures of 16 prompts, then 1 step; 4 rounds" in result.stdout


def test_the_page_of_alarms_counts_them():
    """Each setting that can stop a run is an alarm; besides, a number gone bad is one."""
    text = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    named = [row[0].strip("`") for row in rows_of(text)[2:]]
    fields = HealthConfig.model_fields.items()
    assert named == [*(name for name, field in fields if "stop" in get_args(field.annotation)), "not a number"]
    words = {4: "four", 5: "five", 6: "six", 7: "seven"}
    assert (
        f"{words[len(named)].capitalize()} alarms watch them; the first {words[len(named) - 1]} have a setting" in text
    )
    assert f"as each of the first {words[len(named) - 1]};" in text
