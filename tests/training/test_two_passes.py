"""Two passes, the first without gradient: the same gradient as one pass, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffalign.objectives import OBJECTIVES
from tests.training.methods import OFFLINE, QUICK, families, trainer_of

ERRORS_ONLY = [name for name in OFFLINE if OBJECTIVES[name].params.first == "policy"]


@pytest.mark.parametrize(
    ("name", "max_batch"),
    [pytest.param(name, 3, marks=[] if name in QUICK else pytest.mark.slow) for name in ERRORS_ONLY] + [("gdro", None)],
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
        gradients.append((seen, metrics["loss"]))
    (one, loss), (two, other) = gradients
    assert other == pytest.approx(loss, rel=1e-4, abs=1e-6)
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
