"""Pictures and prompts that look like trouble and must work."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import encode
from tests.end_to_end.bad_input import call, settings_file, tree
from tests.training.tiny import rows

SCRIPT = "</style><script>alert('x')</script><img src=x onerror=alert(1)>"
PROMPTS = {
    "emoji": "a 🦊 and a 👩‍👩‍👧‍👦 under a 🏳️‍🌈",
    "right to left": "دائرة حمراء \u202eelcric\u202c",
    "combining": "a z\u0335\u0322a\u0334\u0327l\u0336g\u0337o circle" + "\u0301" * 60,
    "NUL byte": "a red\0circle",
    "control characters": "a \x1b[31mred\x1b[0m \r circle \x7f",
    "several lines": "a red circle\nleft of\n\ta blue square",
    "100,000 letters": "a red circle and " * 5883,
    "markup": SCRIPT,
    "braces": "{{ 7 * 7 }} {% for x in y %} ${HOME} `id` $(id) %s",
    "one letter": "a",
    "nothing that the tokenizer knows": "漢字" * 20,
    "quotes": "\"a\" 'red' \\ circle",
}


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (24, 24), shade) for shade in ("red", "blue", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    """One file of every kind that people have."""
    grey = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    plain = Image.fromarray((grey / 257).astype(np.uint8)).convert("RGB")
    return {
        "one pixel.png": encode(Image.new("RGB", (1, 1), "red")),
        "one row.png": encode(Image.new("RGB", (400, 1), "red")),
        "one column.png": encode(Image.new("RGB", (1, 400), "red")),
        "palette.png": encode(plain.convert("P")),
        "palette with a transparent colour.gif": encode(plain.convert("P"), "GIF", transparency=0),
        "alpha.png": encode(plain.convert("RGBA")),
        "grey and alpha.png": encode(plain.convert("LA")),
        "black and white.png": encode(plain.convert("1")),
        "16 bits.png": encode(Image.fromarray(grey)),
        "CMYK.jpg": encode(plain.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(plain, "JPEG", progressive=True),
        "animated.gif": animated("GIF"),
        "animated.png": animated("PNG"),
        "animated.webp": animated("WEBP"),
        "jpeg called.png": encode(plain, "JPEG"),
        "no suffix": encode(plain),
        "名前 🦊.png": encode(plain),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on all of them, and compared on all prompts."""
    home = tmp_path_factory.mktemp("odd")
    files = pictures()
    records = []
    for number, (name, content) in enumerate(files.items()):
        (home / name).write_bytes(content)
        prompt = list(PROMPTS.values())[number % len(PROMPTS)]
        records.append({"id": f"{name} <b>", "prompt": prompt, "chosen": name, "rejected": "alpha.png"})
    (home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in PROMPTS.values()]
    (home / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    file = settings_file(
        home,
        data={"path": str(home / "data.jsonl"), "resolution": 16},
        training={"steps": 3, "groups": 6},
        samples={"every": 3, "count": 12},
        evaluation={
            "prompts": str(home / "prompts.jsonl"),
            "rewards": [{"name": "scene"}, {"name": "jpeg"}],
            "sampler": {"name": "ddim", "steps": 1},
        },
    )
    seen = call("train", "-c", file)
    assert seen.code == 0, seen.err
    assert f"{len(files)} pairs (0 ties left out, 0 bad rows skipped)" in seen.err
    return Path(seen.out.strip().splitlines()[-1])


def test_every_record_is_trained_on(run):
    assert [row["step"] for row in rows(run)] == [1, 2, 3]


def test_every_prompt_is_drawn_and_told_as_it_is(run):
    lines = (run / "evaluation" / "records.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == list(PROMPTS.values())
    assert len(list((run / "evaluation" / "aligned").iterdir())) == len(PROMPTS)


def test_report_shows_prompts_as_text(run):
    page = (run / "report.html").read_text("utf-8")
    assert SCRIPT not in page
    assert "<script>alert" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page and "49" not in page.partition("{{ 7 * 7 }}")[2][:40]
    assert page.rstrip().endswith("</html>")
    assert len(page) < 5_000_000


def test_generate_draws_them(run, tmp_path):
    for number in range(2):  # the second call finds all there
        seen = call("generate", "-p", run.parents[1] / "prompts.jsonl", "-o", tmp_path / "out", "--run", run)
        assert seen.code == 0, seen.err
        assert f"pictures: {[12, 0][number]} drawn, {[0, 12][number]} there already" in seen.err
    listed = (tmp_path / "out" / "metadata.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line)["prompt"] for line in listed if line] == list(PROMPTS.values())


def test_empty_list_of_rewards_compares_pictures_alone(tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red circle\n", encoding="utf-8")
    evaluation = {"prompts": str(prompts), "rewards": [], "sampler": {"name": "ddim", "steps": 1}}
    seen = call("train", "-c", settings_file(tmp_path, evaluation=evaluation, training={"steps": 1}))
    assert seen.code == 0, seen.err


def test_byte_order_marks_of_windows(tmp_path):
    """Of the config, the prompts and the records."""
    (tmp_path / "a.png").write_bytes(pictures()["no suffix"])
    row = json.dumps({"prompt": "one", "chosen": "a.png", "rejected": "a.png"})
    (tmp_path / "data.jsonl").write_text("\ufeff" + row + "\r\n", encoding="utf-8", newline="")
    (tmp_path / "p.txt").write_text("\ufeffa red circle\r\n", encoding="utf-8", newline="")
    file = settings_file(tmp_path, data={"path": str(tmp_path / "data.jsonl"), "resolution": 16}, training={"steps": 1})
    file.write_text("\ufeff" + file.read_text("utf-8"), encoding="utf-8")
    seen = call("train", "-c", file)
    assert seen.code == 0, seen.err
    seen = call(
        "generate", "-p", tmp_path / "p.txt", "-o", tmp_path / "out", "--model", "zoo://shapes-sd", "--steps", 1
    )
    assert seen.code == 0, seen.err
    assert json.loads((tmp_path / "out/metadata.jsonl").read_text("utf-8"))["prompt"] == "a red circle"


def test_bad_records_are_skipped_where_that_is_asked_for(tmp_path):
    """Every bad one with a line of its own, and the good ones trained on."""
    from tests.data.pictures import pairs_folder

    folder = pairs_folder(tmp_path / "data", 4)
    (folder / "1a.png").write_bytes(b"")
    (folder / "2b.png").unlink()
    before = tree(folder)
    data = {"path": str(folder), "resolution": 16, "on_bad": "skip"}
    seen = call("train", "-c", settings_file(tmp_path, data=data, training={"steps": 1}))
    assert seen.code == 0, seen.err
    assert "skipped: record 'r1': not a readable picture" in seen.err
    assert "skipped: record 'r2': cannot read" in seen.err
    assert "2 pairs (0 ties left out, 2 bad rows skipped)" in seen.err
    assert tree(folder) == before
