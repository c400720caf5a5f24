"""A run lets go of its encoders once everything is cached."""

from __future__ import annotations

import pytest

from diffalign.backbones.encoders import Encoders
from diffalign.training import resume, train
from diffalign.training.loop import TrainingLoop
from tests.training.tiny import rows, tiny

EVALUATION = {"prompts": "zoo://shapes-sd/held_out", "count": 3, "batch": 2, "sampler": {"name": "ddim", "steps": 2}}


@pytest.fixture
def seen(monkeypatch):
    """(has text encoders, has autoencoder) before every step, and how often parts were read again."""
    seen: dict[str, list] = {"has": [], "filled": []}
    step, fill = TrainingLoop._take_step, Encoders._fill

    def note_step(self):
        encoders = self.trainer.backbone.encoders
        seen["has"].append((encoders.has("text"), encoders.has("vae")))
        return step(self)

    def note_fill(self, pipeline, names, device):
        seen["filled"].append(names)
        fill(self, pipeline, names, device)

    monkeypatch.setattr(TrainingLoop, "_take_step", note_step)
    monkeypatch.setattr(Encoders, "_fill", note_fill)
    return seen


@pytest.mark.parametrize("every", [None, 1])
def test_encoders_are_gone_while_training(tmp_path, seen, every):
    samples = {"every": every, "count": 2}
    run = train(tiny(tmp_path, samples=samples, evaluation=EVALUATION, training={"steps": 2}), progress=False)
    assert seen["has"] == [(False, every is not None)] * 2
    assert seen["filled"] == [], "held-out prompts are cached, and the autoencoder stays where pictures are drawn"
    assert len(rows(run.folder, "samples")) == (0 if every is None else 3)
    (drawn,) = run.generator(["a red circle"], [0])  # neither of the records nor held out
    assert drawn.shape == (1, 3, 32, 32)
    assert ["text_encoder"] in seen["filled"] and (["vae"] in seen["filled"]) == (every is None)


def test_a_resumed_run_and_full_fine_tuning(tmp_path, seen):
    config = tiny(
        tmp_path,
        model={"family": "sd", "path": "zoo://shapes-sd", "train": "full", "lora": {}},
        training={"steps": 2, "checkpoint_every": 1, "groups": 1},
    )
    run = train(config, progress=False)
    assert seen["has"] == [(False, False)] * 2
    assert seen["filled"] == [["text_encoder", "vae"]], "once, to save the whole pipeline"
    assert (run.folder / "model" / "text_encoder" / "model.safetensors").is_file()
    (run.folder / "checkpoints" / "step-2").rename(tmp_path / "aside")
    seen["has"].clear()
    resume(run.folder, progress=False)
    assert seen["has"] == [(False, False)]
