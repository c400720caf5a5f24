"""What a resumed run must not take for its own: the result of an earlier step, a model that was replaced."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from diffalign.backbones import Backbone
from diffalign.exceptions import CheckpointError, ConfigError, DataError, SaveError
from diffalign.training import export, load_run, resume, train
from diffalign.training.checkpoint import list_checkpoints
from diffalign.zoo import locate
from tests.training.tiny import adapter, assert_equal, tiny


def test_a_result_of_an_earlier_step_is_written_anew(tmp_path, monkeypatch, caplog):
    """The steps were raised, and the disk was full when the result was to be written: the old one is still there."""
    folder = train(tiny(tmp_path, training={"steps": 2}), progress=False).folder
    old = adapter(folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["training"]["steps"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with monkeypatch.context() as full:
        full.setattr(Backbone, "save_adapter", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(SaveError, match=r"free some space and go on with diffalign train --resume"):
            resume(folder, progress=False)
    assert [path.name for path in list_checkpoints(folder)] == ["step-2", "step-3"]
    assert_equal(adapter(folder), old)
    with pytest.raises(ConfigError, match=r"adapter is of step 2, and the run has gone on to step 3: finish it"):
        export(folder, tmp_path / "mine", "diffusers")
    with caplog.at_level(logging.WARNING):
        assert load_run(folder).steps == 2
    assert "adapter is of step 2, and the run has gone on to step 3" in caplog.text
    done = resume(folder, progress=False)
    assert (done.steps, load_run(folder).steps) == (3, 3)
    assert_equal(adapter(folder), {f"unet.{key}": value for key, value in done.backbone.state("policy").items()})
    assert not torch.equal(next(iter(adapter(folder).values())), next(iter(old.values())))
    export(folder, tmp_path / "mine", "diffusers")
    assert "| steps | 3 of" in (tmp_path / "mine" / "README.md").read_text()


@pytest.mark.parametrize("part", ["unet", "scheduler", "text_encoder", "vae"])
def test_a_part_of_the_base_that_was_replaced_is_noticed(tmp_path, part):
    base = shutil.copytree(locate("zoo://shapes-sd"), tmp_path / f"base-{part}")
    settings = {"path": str(base)}
    run = train(tiny(tmp_path, model=settings, training={"steps": 2}), progress=False)
    resume(run.folder, progress=False)
    if part == "scheduler":
        file = base / part / "scheduler_config.json"
        file.write_text(file.read_text().replace('"epsilon"', '"v_prediction"'))
    else:
        (weights,) = (base / part).glob("*.safetensors")
        tensors = load_file(weights)
        weights.unlink()
        save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    with pytest.raises(
        (CheckpointError, DataError), match=rf"base-{part} is not what this run started|another autoencoder"
    ):
        resume(run.folder, progress=False)
