"""Training on pictures of different ratios of sides, in every family: buckets, padding, resuming, banks and processes."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from diffalign.backbones.flux import pack, place_ids, unpack
from diffalign.config import parse_config
from diffalign.data import Share
from diffalign.exceptions import ConfigError, RunInterrupted
from diffalign.training import resume, train
from diffalign.training.build import build_backbone
from diffalign.training.build_data import build_data
from diffalign.training.build_trainer import build_trainer
from diffalign.training.objective_inputs import _unpadded
from diffalign.training.offline import OfflineTrainer, StepResult
from tests.backbones.models import FAMILIES, OPTIONS, load, path_of
from tests.data.pictures import picture_file, write_rows
from tests.training.tiny import assert_same_run, rows, tiny_settings

SIZES = [(64, 32), (60, 30), (30, 60), (33, 66), (40, 40), (32, 36), (70, 30), (32, 64), (31, 31)]  # width, height


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pairs")
    listed = []
    for number, size in enumerate(SIZES):
        for member in range(2):
            (home / f"{number}{'ab'[member]}.png").write_bytes(picture_file(20 * number + 9 * member, size))
        listed.append({"id": f"r{number}", "prompt": "p", "chosen": f"{number}a.png", "rejected": f"{number}b.png"})
    write_rows(home / "metadata.jsonl", listed)
    return home


def settings(home: Path, pairs: Path, family: str = "sd", *, data: Any = None, **training: Any) -> dict[str, Any]:
    objective = {"name": "flow_dpo"} if family in ("sd3", "flux") else {"name": "diffusion_dpo", "beta": 500.0}
    base = tiny_settings(
        home,
        data={
            "path": str(pairs),
            "resolution": 32,
            "buckets": {"step": 8},
            "flip": True,
            **(data or {}),
        },
        objective=objective,
        training={"steps": 4, "groups": 2, **training},
    )
    model = {"family": family, "path": path_of(family), "lora": {"rank": 2, "alpha": 2}, **OPTIONS[family]}
    return base | {"model": model}


def trainer_of(*args: Any, **options: Any):
    return build_trainer(parse_config(settings(*args, **options)))


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_every_shape(family, fit, pairs, tmp_path):
    trainer = trainer_of(tmp_path, pairs, family, data={"fit": fit})
    shapes, first = set(), trainer.train_step().metrics
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for _ in range(4):
        batch = trainer._micro_batch(0).batch
        shapes.add(tuple(batch.x0.shape[-2:]))
        assert (batch.mask is not None) == (fit == "pad")
        if family == "sdxl":
            factor = 32 // trainer.backbone.sample_shape(32)[-1]
            height, width = (factor * side for side in batch.x0.shape[-2:])
            assert batch.condition.leaves["time_ids"][..., 4:].flatten(0, 1).tolist() == [[height, width]] * 4
        metrics = trainer.train_step().metrics
        assert math.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    assert len(shapes) > 1 and any(height != width for height, width in shapes)


@pytest.mark.parametrize(("height", "width"), [(4, 10), (10, 4), (6, 6)])
def test_flux_packs_a_picture_that_is_no_square_as_diffusers_does(height, width):
    latents = torch.randn(2, 16, height, width)
    packed = FluxPipeline._pack_latents(latents, 2, 16, height, width)
    assert torch.equal(pack(latents), packed)
    assert torch.equal(unpack(packed, height // 2, width // 2), latents)
    ids = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(place_ids(height // 2, width // 2), ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_is_not_taken_for_its_transposed(family):
    """Tall latents are not read as wide ones: what stands in a row matters."""
    backbone = load(family)
    channels, side, _ = backbone.sample_shape()
    tall = torch.randn(1, channels, side, side // 2, generator=torch.Generator().manual_seed(0))
    condition = backbone.condition(["a red circle"])
    with torch.no_grad():
        seen = backbone.predict(tall, torch.tensor([0.5]), condition)
        turned = backbone.predict(tall.transpose(-1, -2).contiguous(), torch.tensor([0.5]), condition)
        moved = backbone.predict(tall.roll(2, -2), torch.tensor([0.5]), condition)
    assert seen.shape == tall.shape and turned.shape == (1, channels, side // 2, side)
    assert not torch.allclose(seen, turned.transpose(-1, -2), atol=1e-4)
    assert not torch.allclose(seen, moved, atol=1e-4)


def test_padding_has_no_part_in_errors_or_gradients(pairs, tmp_path):
    """Whatever the latents of the padding are: neither loss, errors nor gradients of a pixel-wise network notice."""
    trainer = trainer_of(tmp_path, pairs, data={"fit": "pad", "flip": False})
    places = [next((0, number) for number, (name, _) in enumerate(trainer.data.records) if name == "r0")]
    batch, draw = trainer._drawn(places, [0])
    assert batch.mask is not None and 0 < batch.mask.mean() < 1
    plain = trainer._loss._errors(trainer._loss._policy, None, batch, draw, residuals=True)
    masked = plain.residuals["policy"].square() * batch.mask
    count = batch.mask.expand(batch.x0.shape).flatten(2).sum(2)
    torch.testing.assert_close(plain.policy, masked.flatten(2).sum(2) / count)


def test_residuals_of_masked_batches_average_to_their_errors(pairs, tmp_path):
    trainer = trainer_of(tmp_path, pairs, data={"fit": "pad"})
    batch, draw = trainer._drawn([(0, 0)], [0])
    errors = trainer._loss._errors(trainer._loss._policy, None, batch, draw, residuals=True)
    seen = _unpadded(errors.residuals["policy"], batch)
    torch.testing.assert_close(seen.square().flatten(2).mean(2), errors.policy)
    assert _unpadded(seen, replace(batch, mask=None)) is seen


def test_two_passes_carry_the_mask(pairs, tmp_path):
    figures = []
    for training in ({}, {"two_pass": True, "max_batch": 1}):
        trainer = trainer_of(tmp_path, pairs, data={"fit": "pad"}, **training)
        figures.append([trainer.train_step().metrics for _ in range(2)])
    for one, two in zip(*figures, strict=True):
        for name in ("loss", "winner_error", "loser_error", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-3)


def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(pairs, tmp_path, monkeypatch):
    config = parse_config(settings(tmp_path, pairs, steps=6))
    whole = train(config, progress=False).folder
    original = OfflineTrainer.train_step

    def stopping(self: OfflineTrainer) -> StepResult:
        result = original(self)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch, pytest.raises(RunInterrupted):
        patch.setattr(OfflineTrainer, "train_step", stopping)
        train(config, progress=False)
    (folder,) = set((tmp_path / "runs").iterdir()) - {whole}
    assert len(rows(folder)) == 3
    resume(folder, progress=False)
    assert_same_run(whole, folder, 6)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_reference_bank_gives_the_same_errors(pairs, tmp_path, epochs):
    live, bank = (trainer_of(tmp_path, pairs, steps=12, reference_bank=each) for each in (None, epochs))
    for _ in range(3):  # within the first epoch
        one, two = live.train_step().metrics, bank.train_step().metrics
        assert two["reference_winner_error"] == pytest.approx(one["reference_winner_error"], rel=1e-4)
    for _ in range(6):
        assert math.isfinite(bank.train_step().metrics["loss"])


def test_accumulated_forwards_are_each_of_one_shape(pairs, tmp_path):
    trainer = trainer_of(tmp_path, pairs, accumulation=2, steps=8)
    for _ in range(8):
        trainer.train_step()
    alone = trainer_of(tmp_path, pairs, steps=8)
    assert [trainer._order.place(each) for each in range(30)] == [alone._order.place(each) for each in range(30)]


def test_too_few_of_a_shape(pairs, tmp_path, caplog):
    with pytest.raises(ConfigError, match=r"training\.groups: no bucket has 9 groups"):
        trainer_of(tmp_path, pairs, groups=9)
    caplog.clear()
    trainer_of(tmp_path, pairs, groups=3)
    assert "groups are never trained on" in caplog.text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"buckets": {"step": 6}}, r"data\.buckets: step 6 makes sides that this model does not take: .*multiple of 4"),
        (
            {"buckets": {"smallest": 40}},
            r"data\.buckets: smallest <= data\.resolution <= largest must hold, got 40, 32 and 64",
        ),
        ({"path": "zoo://shapes-sd/preferences", "flip": False}, "data.buckets: .* holds latents, not pictures"),
    ],
)
def test_buckets_that_cannot_be(pairs, tmp_path, data, says):
    with pytest.raises(ConfigError, match=says):
        trainer_of(tmp_path, pairs, data=data)


def test_processes_that_fill_one_cache_agree(pairs, tmp_path):
    """Each encodes its share; then all see the same."""
    config = parse_config(settings(tmp_path, pairs))
    backbone = build_backbone(config, torch.device("cpu"))
    seen = [build_data(config, backbone, Share(rank, 2)) for rank in range(2)] + [build_data(config, backbone)]
    assert len({data.content_hash for data in seen}) == 1
    assert all(torch.equal(data.batch([(1, 2)]).x0, seen[0].batch([(1, 2)]).x0) for data in seen)
