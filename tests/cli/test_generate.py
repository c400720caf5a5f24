"""`diffalign generate`: prompts to pictures and records."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffalign.exceptions import ConfigError, DataError

ZOO = ("--model", "zoo://shapes-sd", "--steps", "2")


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.png"))}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("*.png"))}


def refusal(call: Any, *arguments: object) -> str:
    result = call("generate", *arguments)
    assert isinstance(result.exception, ConfigError | DataError), result.exception
    return str(result.exception)


def test_one_prompt(call, tmp_path):
    out = tmp_path / "deep" / "out"
    result = call("generate", "-p", "a red circle", "-o", out, *ZOO, "--seed", 7, "-n", 2, "--guidance-scale", 2)
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip() == str(out)
    assert result.stderr.splitlines()[-1] == "pictures: 2 drawn, 0 there already"
    assert [(row["id"], row["prompt"], row["seed"]) for row in records(out)] == [
        ("000000", "a red circle", 7),
        ("000001", "a red circle", 8),
    ]
    first = records(out)[0]
    assert (first["file_name"], first["source"], first["steps"], first["guidance_scale"], first["adapter"]) == (
        "000000.png", "zoo://shapes-sd", 2, 2.0, None,
    )  # fmt: skip
    with Image.open(out / "000001.png") as picture:
        assert (picture.size, picture.mode) == ((32, 32), "RGB")
    shades = pictures(out)
    assert shades["000000.png"] != shades["000001.png"]
    assert {path.name for path in out.iterdir()} == {"000000.png", "000001.png", "metadata.jsonl"}


def test_file_of_prompts_is_continued_and_what_is_there_kept(call, tmp_path):
    source, out = tmp_path / "prompts.txt", tmp_path / "out"
    source.write_text("a red circle\n\nкот ✓\n", encoding="utf-8")
    assert call("generate", "-p", source, "-o", out, *ZOO).exit_code == 0
    before, drawn = times(out), pictures(out)
    assert [row["prompt"] for row in records(out)] == ["a red circle", "кот ✓"]
    again = call("generate", "-p", source, "-o", out, *ZOO)
    assert again.exit_code == 0
    assert again.stderr.splitlines()[-1] == "pictures: 0 drawn, 2 there already"
    assert again.stdout.strip() == str(out)
    assert times(out) == before
    source.write_text("a red circle\nкот ✓\ntwo blue squares\n", encoding="utf-8")
    (out / "000001.png").unlink()
    (out / "mine.png").write_bytes(b"not of the listing")
    result = call("generate", "-p", source, "-o", out, *ZOO)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == "pictures: 2 drawn, 1 there already"
    (out / "mine.png").unlink()
    after = times(out)
    assert after["000000.png"] == before["000000.png"]
    assert len(records(out)) == len(after) == 3
    again, before = (
        np.asarray(Image.open(io.BytesIO(file))).astype(int)
        for file in (pictures(out)["000001.png"], drawn["000001.png"])
    )
    assert np.abs(again - before).max() <= 1  # in another batch, to rounding


def test_pictures_of_other_settings_are_refused_or_overwritten(call, tmp_path):
    base = ("-p", "a red circle", "-o", tmp_path)
    call("generate", *base, *ZOO)
    before = pictures(tmp_path)
    other = ("generate", *base, "--model", "zoo://shapes-sd", "--steps", 3)
    said = refusal(call, *other[1:])
    assert "--out: " in said and "000000.png has steps: " in said and "--overwrite" in said
    assert pictures(tmp_path) == before
    result = call(*other, "--overwrite")
    assert result.stderr.splitlines()[-1] == "pictures: 1 drawn, 0 there already"
    assert pictures(tmp_path) != before
    assert records(tmp_path)[0]["steps"] == 3


def test_interrupted_call_is_continued(call, tmp_path, monkeypatch):
    """Killed after the first batch: what is listed is whole, and the rest is drawn next time."""
    from diffalign.pipelines import drawings

    source = tmp_path / "prompts.txt"
    source.write_text("a red circle\na blue square\ntwo green crosses\n")
    original, calls = drawings.save_picture, []

    def save(picture: Image.Image, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(picture, path)

    monkeypatch.setattr(drawings, "save_picture", save)
    call("generate", "-p", source, "-o", tmp_path / "out", *ZOO, "--batch", 1)
    assert [row["id"] for row in records(tmp_path / "out")] == ["000000"]
    monkeypatch.setattr(drawings, "save_picture", original)
    before = times(tmp_path / "out")
    call("generate", "-p", source, "-o", tmp_path / "out", *ZOO)
    assert len(records(tmp_path / "out")) == 3
    assert times(tmp_path / "out")["000000.png"] == before["000000.png"]


def test_records_are_read_as_prompts(call, tmp_path):
    call("generate", "-p", "a red circle", "-o", tmp_path / "one", *ZOO)
    call("generate", "-p", tmp_path / "one" / "metadata.jsonl", "-o", tmp_path / "two", *ZOO)
    assert pictures(tmp_path / "one") == pictures(tmp_path / "two")


def test_held_out_prompts_of_the_zoo(call, tmp_path, monkeypatch):
    from diffalign.cli import drawing

    asked = []
    monkeypatch.setattr(drawing, "read_prompts", lambda path: asked.append(path) or ["a red circle"])
    assert call("generate", "-p", "zoo://shapes-sd3/held_out", "-o", tmp_path, *ZOO).exit_code == 0
    assert asked[0].parts[-2:] == ("shapes-sd3", "held_out.txt")


def test_flow_model(call, tmp_path):
    result = call("generate", "-p", "a red circle", "-o", tmp_path, "--model", "zoo://shapes-sd3", "--steps", 2)
    assert result.exit_code == 0, result.exception


def test_aligned_model_of_a_run_draws_as_its_config_says(call, run_folder, tmp_path):
    assert call("generate", "-p", "a red circle", "-o", tmp_path / "run", "--run", run_folder).exit_code == 0
    (row,) = records(tmp_path / "run")
    assert (row["source"], row["steps"], row["guidance_scale"]) == (run_folder.name, 2, 1.0)
    assert len(row["adapter"]) == 16
    adapter = run_folder / "adapter"
    call("generate", "-p", "a red circle", "-o", tmp_path / "lora", *ZOO, "--adapter", adapter)
    call("generate", "-p", "a red circle", "-o", tmp_path / "base", *ZOO)
    shades = [np.asarray(Image.open(tmp_path / name / "000000.png")).astype(int) for name in ("run", "lora", "base")]
    assert np.abs(shades[0] - shades[1]).max() <= 1  # our adapter is the one that diffusers loads
    assert records(tmp_path / "lora")[0]["adapter"] == row["adapter"]


def test_adapter_written_anew_under_its_old_name_draws_again(call, run_folder, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(run_folder / "adapter", adapter)
    arguments = ("-p", "a red circle", "-o", tmp_path / "out", *ZOO, "--adapter", adapter)
    call("generate", *arguments)
    before = pictures(tmp_path / "out")
    (file,) = adapter.glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    state = {key: torch.randn_like(value) for key, value in load_file(file).items()}
    save_file(state, file, metadata=about)
    assert "000000.png has adapter: " in refusal(call, *arguments)
    assert call("generate", *arguments, "--overwrite").exit_code == 0
    assert pictures(tmp_path / "out") != before


# ---------------------------------------------------------------- refusals


def test_run_or_model(call, run_folder, tmp_path):
    base = ("-p", "a red circle", "-o", tmp_path / "out")
    assert "give either --run" in refusal(call, *base)
    assert "give either --run" in refusal(call, *base, *ZOO, "--run", run_folder)
    assert "--run brings its own model" in refusal(call, *base, "--run", run_folder, "--adapter", tmp_path)
    assert "--run brings its own model" in refusal(call, *base, "--run", run_folder, "--family", "sd")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "zoo://nope"), "zoo://nope: the zoo has"),
        (("--model", "some/model"), "--family: say which family some/model is of"),
        (
            ("--model", "zoo://shapes-sd", "--family", "sdxxl"),
            "--family: must be one of sd, sdxl, sd3, flux, volume, got 'sdxxl'",
        ),
        (("--model", "zoo://shapes-sd", "--family", "sd3"), "holds a StableDiffusionPipeline"),
        (("--model", "zoo://shapes-sd", "--device", "toaster"), "device: 'toaster' cannot be used here"),
        (("--model", "zoo://shapes-sd", "--adapter", "/absent"), "--adapter: no such file or folder: /absent"),
        (("--run", "/absent"), "/absent is not a run folder"),
    ],
)
def test_model_that_cannot_be_had_leaves_nothing(call, tmp_path, arguments, says):
    assert says in refusal(call, "-p", "a red circle", "-o", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_folder_that_is_no_adapter(call, tmp_path):
    (tmp_path / "adapter").mkdir()
    message = refusal(call, "-p", "x", "-o", tmp_path / "out", *ZOO, "--adapter", tmp_path / "adapter")
    assert "is not a LoRA of this model" in message


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("", "--prompts: empty"),
        ("  ", "--prompts: empty"),
        ("absent.txt", "absent.txt: cannot be read"),
        ("zoo://shapes-sd/nope", "a zoo model has"),
    ],
)
def test_prompts_that_cannot_be_had(call, tmp_path, prompts, says):
    assert says in refusal(call, "-p", prompts, "-o", tmp_path / "out", *ZOO)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ['{"file_name": "mine.png", "text": "my own"}\n', "nonsense", "[1]\n"])
def test_other_people_s_listing_is_not_overwritten(call, tmp_path, content):
    (tmp_path / "metadata.jsonl").write_text(content)
    assert "lists something that generate did not draw" in refusal(call, "-p", "a red circle", "-o", tmp_path, *ZOO)
    assert (tmp_path / "metadata.jsonl").read_text() == content


def test_out_that_is_a_file(call, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "--out: cannot make" in refusal(call, "-p", "a red circle", "-o", tmp_path / "file", *ZOO)


# ---------------------------------------------------------------- sampler, resolution, precision


def test_settings_of_the_drawing(call, tmp_path):
    base = ("-p", "a red circle", *ZOO)
    ways = {
        "plain": (),
        "noisy": ("--eta", 1),
        "large": ("--resolution", 48),
        "half": ("--precision", "bf16"),
    }
    for name, extra in ways.items():
        result = call("generate", *base, "-o", tmp_path / name, *extra)
        assert result.exit_code == 0, result.exception
    about = {name: records(tmp_path / name)[0] for name in ways}
    assert [about["plain"][key] for key in ("sampler", "eta", "resolution", "precision")] == ["DDIM", 0, 32, "float32"]
    assert (about["noisy"]["eta"], about["half"]["precision"]) == (1.0, "bfloat16")
    assert pictures(tmp_path / "noisy") != pictures(tmp_path / "plain")
    assert pictures(tmp_path / "half") != pictures(tmp_path / "plain")
    with Image.open(tmp_path / "large" / "000000.png") as picture:
        assert picture.size == (48, 48)


def test_settings_win_over_the_run_s_own(call, run_folder, tmp_path):
    extra = ("--eta", 0.5, "--resolution", 48, "--precision", "bf16", "--guidance-scale", 2)
    result = call("generate", "-p", "a red circle", "-o", tmp_path, "--run", run_folder, *extra)
    assert result.exit_code == 0, result.exception
    (row,) = records(tmp_path)
    assert [row[key] for key in ("steps", "eta", "resolution", "precision", "guidance_scale")] == [
        2, 0.5, 48, "bfloat16", 2.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--sampler", "dimm"),
            "--sampler: must be one of ddim, dpm_solver_pp, flow_euler, flow_heun, flow_sde, got 'dimm'; did you mean",
        ),
        (("--sampler", "flow_euler"), "--sampler: flow_euler needs a flow model"),
        (("--precision", "fp8"), "--precision: must be one of fp32, bf16, fp16, got 'fp8'"),
        (("--resolution", 33), "--resolution: "),
        (("--resolution", 1), "--resolution: "),
        (("--steps", 5000), "--steps: must be"),
        (("--model", "zoo://shapes-sd3", "--eta", 0.5), "--eta: is a setting of the samplers ddim and flow_sde"),
    ],
)
def test_settings_that_cannot_be_had(call, tmp_path, arguments, says):
    model = () if "--model" in arguments else ("--model", "zoo://shapes-sd")
    assert says in refusal(call, "-p", "a red circle", "-o", tmp_path / "out", *model, *arguments)
    assert not (tmp_path / "out").exists()


def test_several_prompts_are_all_drawn(call, tmp_path):
    (tmp_path / "prompts.txt").write_text("two blue squares\n", encoding="utf-8")
    result = call("generate", "-p", "a red circle", "-p", tmp_path / "prompts.txt", "-o", tmp_path / "out", *ZOO)
    assert result.exit_code == 0, result.exception
    assert [row["prompt"] for row in records(tmp_path / "out")] == ["a red circle", "two blue squares"]


def test_a_second_value_of_an_option_is_refused(call, tmp_path):
    assert refusal(call, "-p", "x", "-o", tmp_path, *ZOO, "--seed", 1, "--seed", 2) == (
        "--seed: given 2 times, and it is one value; give it once"
    )
    scored = call("score", "-i", tmp_path, "-r", "jpeg", "--prompt", "a", "--prompt", "b").exception
    assert isinstance(scored, ConfigError) and str(scored).startswith("--prompt: given 2 times")
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    expanded = call("score", "-i", tmp_path / "a.png", tmp_path / "b.png", "-r", "jpeg").exception
    assert isinstance(expanded, ConfigError) and "put that in quotes, as 'drawn/*.png'" in str(expanded)
