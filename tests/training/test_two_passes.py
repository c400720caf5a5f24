"""Two passes, the first without gradient: the same gradient as one pass, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffalign.denoising import LinearFlow, NoiseDraw, Prediction, denoising_errors
from diffalign.training.micro_batch import MicroBatch, _chunks
from diffalign.types import Condition, GroupBatch
from tests.training.methods import OFFLINE, QUICK, families, trainer_of


@pytest.mark.parametrize(
    ("name", "max_batch"),
    [pytest.param(name, 3, marks=[] if name in QUICK else pytest.mark.slow) for name in OFFLINE] + [("gdro", None)],
)
def test_two_passes_equal_one(home, name, max_batch):
    family = families(name)[0]
    gradients = []
    for training in ({}, {"two_pass": True, "max_batch": max_batch}):
        trainer = trainer_of(home, name, family, training={"steps": 3, "groups": 2, "accumulation": 2} | training)
        trainer.train_step()  # B is 0 before: then A has no gradient
        seen: list[torch.Tensor] = []
        step = trainer._optimizer.step

        def note(step=step, seen=seen, parameters=trainer._parameters) -> None:
            seen.extend(parameter.grad.clone() for parameter in parameters)
            step()

        trainer._optimizer.step = note
        metrics = trainer.train_step().metrics
        gradients.append((seen, metrics))
    (one, first), (two, second) = gradients
    assert first.keys() == second.keys()
    for figure in {"loss", "reference_drift"} & first.keys():
        assert second[figure] == pytest.approx(first[figure], rel=1e-4, abs=1e-6), figure
    scale = max(part.abs().max() for part in one)
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4 * scale.item())


def test_two_passes_ask_for_no_more_than_a_chunk_with_gradient(home):
    trainer = trainer_of(home, "diffusion_dpo", "sd", training={"steps": 3, "groups": 3, "two_pass": True})
    sizes = []

    def note(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        sizes.append((torch.is_grad_enabled(), len(inputs[0])))

    trainer.backbone.network.register_forward_hook(note)
    trainer.train_step()
    assert [size for grad, size in sizes if grad] == [1] * 6
    assert [size for grad, size in sizes if not grad] == [6, 6]  # policy and reference, once each


def test_chunks_are_the_samples_with_all_that_belongs_to_them():
    """Mask, per-member conditions and a time told to the network go with each sample."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 2, 4, 4, generator=generator)  # two groups of three
    t, told = torch.rand(2, 2, 3, generator=generator) * 0.8 + 0.1
    leaves = {"shift": torch.tensor([[1.0], [2.0]]), "size": torch.arange(6.0).reshape(2, 3, 1)}
    mask = torch.rand(2, 3, 1, 4, 4, generator=generator)
    batch = GroupBatch(
        x0, Condition(leaves, None, frozenset({"size"})), torch.ones(2, 3, dtype=torch.bool), ("a", "b"), mask=mask
    )
    micro = MicroBatch(batch, NoiseDraw(t, noise, told), None, last=True, progress=0.0)

    class Network:
        process, prediction = LinearFlow(), Prediction.FLOW

        def __call__(self, x_t: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
            by_sample = time + condition.leaves["shift"][:, 0] + condition.leaves["size"][:, 0]
            return 0.3 * x_t + by_sample[:, None, None, None]

    def errors(batch: GroupBatch, draw: NoiseDraw) -> torch.Tensor:
        return denoising_errors(Network(), None, batch.x0, batch.condition, draw, mask=batch.mask).policy

    expected = errors(batch, micro.draw).flatten()
    assert len(expected.unique()) == 6
    for size in (1, 4):
        found = torch.cat([errors(part, draw).flatten() for _, part, draw in _chunks(micro, size)])
        torch.testing.assert_close(found, expected)
