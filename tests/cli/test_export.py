"""`diffalign export`: what it writes, what it refuses, and that it never overwrites what is not its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from diffalign.exceptions import ConfigError
from diffalign.training import load_run, train
from tests.backbones.models import answer, load_from
from tests.training.tiny import tiny


def refusal(call, *arguments) -> str:
    result = call("export", *arguments)
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def front_matter(card: Path) -> dict:
    _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


@pytest.fixture(scope="module")
def aligned(run_folder):
    return load_run(run_folder).backbone


@pytest.fixture(scope="module")
def full_run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("full")
    model = {"train": "full", "lora": {"rank": 8, "alpha": 8}}
    config = tiny(home, model=model, optimizer={"learning_rate": 1e-5}, training={"steps": 1})
    return train(config, progress=False).folder


def told(folder_or_file: Path, aligned) -> torch.Tensor:
    """What the base says with the exported LoRA in it."""
    base = load_from("sd", "zoo://shapes-sd", lora=None)
    base.pipeline.load_lora_weights(folder_or_file)
    return answer(base, "reference")


def test_kohya_file(call, run_folder, aligned, tmp_path):
    out = tmp_path / "mine.safetensors"
    result = call("export", run_folder, "--out", out, "--format", "kohya")
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip().splitlines()[-1] == str(out)
    torch.testing.assert_close(told(out, aligned), answer(aligned), rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.md", "mine.safetensors"]
    with safe_open(out, "pt") as file:
        facts = file.metadata()
    assert facts["ss_training_comment"] == "diffalign diffusion_dpo" and facts["ss_max_train_steps"] == "2"
    assert "`models/loras`" in (tmp_path / "mine.md").read_text()


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_folder(call, run_folder, aligned, tmp_path, format):
    out = tmp_path / "mine"
    assert call("export", run_folder, "-o", out, "-f", format).exit_code == 0
    names = {"diffusers": "pytorch_lora_weights.safetensors", "kohya": "mine.safetensors"}
    assert sorted(path.name for path in out.iterdir()) == sorted(["README.md", names[format]])
    torch.testing.assert_close(told(out, aligned), answer(aligned), rtol=1e-5, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_merged_model(call, run_folder, aligned, tmp_path):
    out = tmp_path / "merged"
    assert call("export", run_folder, "-o", out, "-f", "merged").exit_code == 0
    merged = load_from("sd", str(out), lora=None)
    torch.testing.assert_close(answer(merged, "reference"), answer(aligned), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answer(aligned, "reference"), answer(aligned), rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name in merged.network.state_dict())
    assert front_matter(out / "README.md")["tags"] == ["text-to-image", "diffalign", "diffusion_dpo"]


def test_merged_in_half_precision(call, run_folder, tmp_path):
    assert call("export", run_folder, "-o", tmp_path / "half", "-f", "merged", "--precision", "fp16").exit_code == 0
    with safe_open(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)


def test_card_of_a_run(call, run_folder, tmp_path):
    call("export", run_folder, "-o", tmp_path / "mine")
    card = tmp_path / "mine" / "README.md"
    head = front_matter(card)
    assert head["library_name"] == "diffusers" and head["pipeline_tag"] == "text-to-image"
    assert head["tags"] == ["text-to-image", "lora", "diffalign", "diffusion_dpo"]
    assert (
        "base_model" not in head and "license" not in head
    )  # the zoo is not on the Hub; the licence is the user's to say
    text = card.read_text()
    for part in ("Wallace et al. 2023", "| beta | 500.0 |", "load_lora_weights", "ComfyUI", "## Evaluation", "| scene"):
        assert part in text, part
    assert (run_folder / "adapter" / "README.md").read_text().count("## Evaluation") == 1  # eval came after the weights
    assert str(tmp_path) not in text and str(run_folder) not in text  # no paths of this disk


def test_a_full_run_is_copied(call, full_run, tmp_path):
    for format in ("diffusers", "merged"):
        assert call("export", full_run, "-o", tmp_path / format, "-f", format).exit_code == 0
        read = StableDiffusionPipeline.from_pretrained(tmp_path / format, safety_checker=None).unet.state_dict()
        state = load_run(full_run).backbone.state("policy")
        assert all(torch.equal(read[key], state[key]) for key in state)
    assert "this run trained the whole network, so it has no LoRA" in refusal(
        call, full_run, "-o", tmp_path / "k.safetensors", "-f", "kohya"
    )
    assert not (tmp_path / "k.safetensors").exists()


def test_a_full_run_is_drawn_with_and_judged(call, full_run, tmp_path):
    assert (
        call("generate", "-p", "a red circle", "-o", tmp_path / "out", "--run", full_run, "--steps", 1).exit_code == 0
    )
    assert (tmp_path / "out" / "000000.png").is_file()
    settings = {"prompts": "zoo://shapes-sd/held_out", "count": 2, "sampler": "{name: ddim, steps: 2}", "resamples": 50}
    overrides = [part for name, value in settings.items() for part in ("--set", f"evaluation.{name}={value}")]
    result = call("eval", full_run, *overrides)
    assert result.exit_code == 0, result.exception
    assert "## Evaluation" in (full_run / "model" / "README.md").read_text()


def test_a_lora_of_no_run_and_back(call, run_folder, aligned, tmp_path):
    adapter = run_folder / "adapter"
    assert "say which model the LoRA is for" in refusal(call, adapter, "-o", tmp_path / "x")
    assert "--family: say which family" in refusal(call, adapter, "-o", tmp_path / "x", "--model", "some/model")
    zoo = ("--model", "zoo://shapes-sd")
    assert call("export", adapter, "-o", tmp_path / "k.safetensors", "-f", "kohya", *zoo).exit_code == 0
    assert call("export", tmp_path / "k.safetensors", "-o", tmp_path / "back", *zoo).exit_code == 0
    assert torch.equal(told(tmp_path / "back", aligned), told(adapter, aligned))
    assert "a run brings its own" in refusal(call, run_folder, "-o", tmp_path / "y", *zoo)


def test_nothing_is_overwritten(call, run_folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    assert "exists; choose another name, or add --overwrite" in refusal(call, run_folder, "-o", mine)
    assert "was not written by diffalign export" in refusal(call, run_folder, "-o", mine, "--overwrite")
    assert (mine / "thesis.txt").read_text() == "years" and len(list(mine.iterdir())) == 1
    out = tmp_path / "out"
    assert call("export", run_folder, "-o", out).exit_code == 0
    before = (out / "README.md").stat().st_mtime_ns
    assert "exists" in refusal(call, run_folder, "-o", out)
    assert (out / "README.md").stat().st_mtime_ns == before
    assert call("export", run_folder, "-o", out, "-f", "kohya", "--overwrite").exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "out.safetensors"]


def test_a_file_beside_it_is_not_overwritten(call, run_folder, tmp_path):
    notes, out = tmp_path / "notes.md", tmp_path / "notes.safetensors"
    notes.write_text("my notes")
    for more in ((), ("--overwrite",)):
        told = refusal(call, run_folder, "-o", out, "-f", "kohya", *more)
        assert "notes.md, where the model card goes, is a file of yours" in told
    assert notes.read_text() == "my notes" and not out.exists()
    notes.unlink()
    assert call("export", run_folder, "-o", out, "-f", "kohya").exit_code == 0
    assert "notes.safetensors" in notes.read_text() and "<lora:notes:1>" in notes.read_text()
    assert call("export", run_folder, "-o", out, "-f", "kohya", "--overwrite").exit_code == 0


def test_a_precision_is_not_of_diffusers_format(call, run_folder, tmp_path):
    told = refusal(call, run_folder, "-o", tmp_path / "x", "-f", "diffusers", "--precision", "fp16")
    assert "--precision: is of --format merged and kohya" in told


def test_kohya_in_half_precision(call, run_folder, aligned, tmp_path):
    out = tmp_path / "half.safetensors"
    assert call("export", run_folder, "-o", out, "-f", "kohya", "--precision", "fp16").exit_code == 0
    with safe_open(out, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118 (no mapping)
    torch.testing.assert_close(told(out, aligned), answer(aligned), rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(os.name == "nt", reason="POSIX rights")
def test_others_may_read_what_they_could_read_of_other_files(call, run_folder, tmp_path):
    call("export", run_folder, "-o", tmp_path / "mine.safetensors", "-f", "kohya")
    call("export", run_folder, "-o", tmp_path / "mine")
    wanted = (tmp_path / "mine.md").stat().st_mode
    for name in ("mine.safetensors", "mine/pytorch_lora_weights.safetensors"):
        assert (tmp_path / name).stat().st_mode == wanted


def test_a_run_is_not_written_into(call, run_folder):
    before = sorted(path.name for path in run_folder.iterdir())
    for out in (run_folder, run_folder / "adapter", run_folder / "new", run_folder.parent):
        assert "lie in one another" in refusal(call, run_folder, "-o", out, "--overwrite")
    assert sorted(path.name for path in run_folder.iterdir()) == before


def test_what_cannot_be_exported(call, run_folder, tmp_path):
    assert "--format: must be one of diffusers, kohya, merged, got 'koyha'; did you mean kohya?" in refusal(
        call, run_folder, "-o", tmp_path / "x", "-f", "koyha"
    )
    assert "only --format kohya is a file" in refusal(call, run_folder, "-o", tmp_path / "x.safetensors")
    assert "no such folder" in refusal(call, run_folder, "-o", tmp_path / "a" / "b")
    assert "no such run folder" in refusal(call, tmp_path / "nowhere", "-o", tmp_path / "x")
    assert "--precision: must be one of" in refusal(call, run_folder, "-o", tmp_path / "x", "--precision", "bf61")
    assert list(tmp_path.iterdir()) == []
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run_folder / "config.yaml", unfinished)
    assert "has no adapter yet: finish it with" in refusal(call, unfinished, "-o", tmp_path / "x")
    (tmp_path / "lora.ckpt").write_bytes(b"")
    assert "is not a .safetensors file" in refusal(
        call, tmp_path / "lora.ckpt", "-o", tmp_path / "x", "--model", "zoo://shapes-sd"
    )
    assert not (tmp_path / "x").exists()
