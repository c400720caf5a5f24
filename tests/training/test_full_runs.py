"""Whole runs of full fine-tuning: what is held, what comes out, and that an interrupted one ends like a whole one."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from diffalign.exceptions import CheckpointError, ConfigError
from diffalign.training import load_run, resume, train
from diffalign.training.build_trainer import build_trainer
from diffalign.training.checkpoint import list_checkpoints
from diffalign.zoo import locate
from tests.training.tiny import assert_equal, rows, timeless, tiny, trainer_state

QUICK = {"sampler": {"name": "ddim", "steps": 2}}
LORA = {"rank": 8, "alpha": 8}  # the section's defaults: a full run has none


def full(home, *, model=None, **sections):
    sections = {"optimizer": {"learning_rate": 1e-5}} | sections
    return tiny(home, model={"train": "full", "lora": LORA} | (model or {}), **sections)


def network(run, family="sd"):
    part = {"sd": "unet", "sd3": "transformer"}[family]
    return load_file(run / "model" / part / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_a_run_leaves_a_model_that_diffusers_reads(tmp_path, family):
    run = train(full(tmp_path, family=family, training={"steps": 2, "ema_decay": 0.5}), progress=False)
    assert not (run.folder / "adapter").exists()
    assert [row["step"] for row in rows(run.folder)] == [1, 2]
    assert rows(run.folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    kind, absent = {
        "sd": (StableDiffusionPipeline, {}),
        "sd3": (StableDiffusion3Pipeline, {"text_encoder_3": None, "tokenizer_3": None}),
    }[family]
    pipeline = kind.from_pretrained(run.folder / "model", **absent)
    read = getattr(pipeline, run.backbone.network_name).state_dict()
    assert_equal(read, run.backbone.state("ema"))  # the average is what the run is for
    assert run.view == "ema"
    moved = [key for key, value in run.backbone.state("policy").items() if not torch.equal(value, read[key])]
    assert len(moved) > 0.9 * len(read)
    card = (run.folder / "model" / "README.md").read_text()
    assert "full fine-tuning" in card and 'from_pretrained("THIS_FOLDER")' in card and "- lora" not in card


def test_a_run_is_loaded_and_drawn_with(tmp_path):
    run = train(full(tmp_path, training={"steps": 2}, evaluation=QUICK), progress=False)
    loaded = load_run(run.folder)
    assert_equal(loaded.backbone.state("policy"), run.backbone.state("policy"))
    assert loaded.backbone.weights._copies == {}  # drawing with the aligned model needs no base
    told = {}
    for name, each in (("run", run), ("loaded", loaded)):
        for view in ("policy", "reference"):
            told[name, view] = next(each.generator(["a red circle"], seeds=[0], view=view))
    for view in ("policy", "reference"):
        torch.testing.assert_close(told["run", view], told["loaded", view], rtol=0, atol=1e-4)
    assert not torch.allclose(told["run", "policy"], told["run", "reference"], atol=1e-3)
    low = load_run(run.folder, precision="bf16").backbone
    with low.active("reference"):
        assert low.dtype == torch.bfloat16
    assert {each.dtype for each in low.network.parameters()} == {torch.bfloat16}


def test_resumed_to_the_bit(tmp_path):
    config = full(tmp_path, training={"steps": 4, "checkpoint_every": 2, "ema_decay": 0.9})
    folder = train(config, progress=False).folder
    whole = shutil.copytree(folder, tmp_path / "whole")
    shutil.rmtree(folder / "checkpoints" / "step-4")
    shutil.rmtree(folder / "model")
    with pytest.raises(ConfigError, match="has no model yet: finish it with diffalign train --resume"):
        load_run(folder)
    resume(folder, progress=False)
    assert [path.name for path in list_checkpoints(folder)] == ["step-2", "step-4"]
    assert_equal(network(folder), network(whole))
    for name in ("policy", "ema"):
        files = [run / "checkpoints" / "step-4" / f"{name}.safetensors" for run in (folder, whole)]
        assert_equal(*map(load_file, files))
    assert_equal(*(trainer_state(run, 4)["optimizer"] for run in (folder, whole)))
    assert timeless(folder) == timeless(whole)
    assert resume(folder, progress=False).steps == 4  # finished: only loaded


def test_a_method_without_reference_holds_none(tmp_path):
    trainer = build_trainer(full(tmp_path, objective={"name": "sft"}))
    trainer.train_step()
    assert trainer.backbone.weights._copies == {}
    trainer = build_trainer(full(tmp_path, training={"ema_decay": 0.9}))
    assert trainer.backbone.weights._copies.keys() == {"reference", "ema"}


def test_a_filled_bank_lets_the_reference_go(tmp_path):
    banked = build_trainer(full(tmp_path, training={"reference_bank": 1}))
    assert banked.backbone.weights._copies == {}
    asked = build_trainer(full(tmp_path))
    losses = [trainer.train_step().metrics["loss"] for trainer in (banked, asked)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_reference_in_lower_precision_is_close(tmp_path):
    run = train(full(tmp_path, model={"reference": {"precision": "bf16"}}, training={"steps": 1}), progress=False)
    (row,) = rows(run.folder)
    assert row["loss"] != pytest.approx(math.log(2), abs=1e-6)
    exact = train(full(tmp_path, training={"steps": 1}), progress=False)
    for name in ("reference_winner_error", "winner_error"):
        if name in row:
            assert row[name] == pytest.approx(rows(exact.folder)[0][name], rel=0.05)
    with run.backbone.active("reference"):
        assert run.backbone.dtype == torch.float32  # the base that it is compared with was read anew


def test_gradient_checkpointing_trains_the_same(tmp_path):
    plain = build_trainer(full(tmp_path))
    saving = build_trainer(full(tmp_path, model={"gradient_checkpointing": True}))
    for _ in range(2):
        first, second = plain.train_step().metrics, saving.train_step().metrics
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)
        assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-3)


def test_two_passes_and_accumulation_give_the_same_gradient(tmp_path):
    found = [
        build_trainer(full(tmp_path, training=each)).train_step().metrics["gradient_norm"]
        for each in ({"groups": 4}, {"groups": 2, "accumulation": 2}, {"groups": 4, "two_pass": True})
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3) and found[2] == pytest.approx(found[0], rel=1e-3)


def test_a_run_that_starts_from_another_runs_lora(tmp_path, monkeypatch):
    lora = {"rank": 2, "alpha": 4}
    first = train(tiny(tmp_path, model={"lora": lora}, training={"steps": 2}, evaluation=QUICK), progress=False)
    monkeypatch.chdir(first.folder)
    training = {"steps": 2, "ema_decay": 0.5}
    config = tiny(tmp_path, model={"lora": {"start": "adapter"}}, training=training, evaluation=QUICK)
    second = train(config, progress=False)
    assert rows(second.folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    monkeypatch.chdir(tmp_path)  # the resolved config names the LoRA from anywhere
    loaded = load_run(second.folder)
    assert loaded.config.model.lora.start == str(first.folder / "adapter")
    assert loaded.config.model.lora.rank is None
    assert_equal(loaded.backbone.state("policy"), second.backbone.state("ema"))
    told = [
        next(run.generator(["two red circles"], seeds=[1], view=view))
        for run, view in ((first, "policy"), (loaded, "reference"), (loaded, "policy"))
    ]
    assert torch.equal(told[0], told[1]) and not torch.equal(told[1], told[2])
    shutil.rmtree(second.folder / "adapter")
    resume(second.folder, progress=False)
    assert_equal(load_run(second.folder).backbone.state("policy"), second.backbone.state("ema"))
    second.backbone.save_adapter(first.folder / "adapter")  # as a run that goes on there would
    with pytest.raises(CheckpointError, match=r"model\.lora\.start: .*adapter is not what this run started from"):
        resume(second.folder, progress=False)


def test_a_base_that_was_replaced_is_noticed_on_resume(tmp_path):
    base = shutil.copytree(locate("zoo://shapes-sd"), tmp_path / "base")
    run = train(full(tmp_path, model={"path": str(base)}, training={"steps": 2}), progress=False)
    resume(run.folder, progress=False)
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights)  # as trained a little further
    with pytest.raises(
        CheckpointError, match=r"model\.path: .*base is not what this run started from \(another network"
    ):
        resume(run.folder, progress=False)
