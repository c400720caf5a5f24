"""Training on noise that the policy's own inversion finds: which noise, whose, and that nothing else changes by it."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffalign.config import parse_config
from diffalign.config.noise import InversionNoise
from diffalign.denoising import NoiseDraw, add_noise
from diffalign.exceptions import ConfigError
from diffalign.samplers import ReNoise, inverted_draw
from diffalign.training import resume, train
from diffalign.training.inverted_noise import training_noise
from diffalign.training.micro_batch import MicroBatch
from diffalign.training.offline import OfflineTrainer
from tests.training.methods import trainer_of
from tests.training.tiny import assert_same_run, tiny, tiny_settings

INVERSION = {"name": "inversion", "steps": 3}
INVERTED = {"steps": 4, "groups": 2, "noise": INVERSION}


def _step(trainer: OfflineTrainer) -> MicroBatch:
    return trainer._micro_batch(0)


@pytest.mark.parametrize(("name", "family"), [("smpo", "sd"), pytest.param("flow_dpo", "sd3", marks=pytest.mark.slow)])
def test_noise_of_a_step_is_the_policys_inversion(home, name, family):
    """Times are the drawn ones; each member has its own noise; x_t is where the policy's inversion ends."""
    trainer = trainer_of(home, name, family, training=INVERTED)
    micro, policy = _step(trainer), trainer.backbone.view("policy")

    def noise(**settings) -> NoiseDraw:
        training = trainer.config.training.model_copy(update={"noise": InversionNoise(**settings)})
        config = trainer.config.model_copy(update={"training": training})
        return training_noise(config, trainer.backbone, trainer.accelerator, micro.batch, drawn)

    drawn = trainer._draw(micro.batch, [0, 0], [0, 1])
    assert torch.equal(micro.draw.t, drawn.t) and torch.equal(drawn.noise[:, 0], drawn.noise[:, 1])
    expected = inverted_draw(policy, micro.batch.x0, micro.batch.condition, micro.draw.t, steps=3)
    assert torch.equal(micro.draw.noise, expected.noise)
    assert not torch.equal(micro.draw.noise[:, 0], micro.draw.noise[:, 1])
    again = noise(steps=4, snap="ceil", renoise=2, average="last")
    renoise = ReNoise(2, average=None)
    expected = inverted_draw(
        policy, micro.batch.x0, micro.batch.condition, drawn.t, steps=4, snap="ceil", renoise=renoise
    )
    assert torch.equal(again.noise, expected.noise)
    assert not torch.equal(again.noise, micro.draw.noise)
    # the network agrees with noise that it found itself far better than with drawn noise
    errors = [trainer._loss.errors(replace(micro, draw=each)).policy.mean().item() for each in (micro.draw, drawn)]
    assert errors[0] < 0.3 * errors[1], errors


def test_noise_follows_the_policy_and_no_gradient_goes_through_it(home):
    trainer = trainer_of(home, "smpo", "sd", training=INVERTED, model={"lora": {"rank": 2, "dropout": 0.5}})
    before = _step(trainer)
    assert not before.draw.noise.requires_grad and before.draw.noise.grad_fn is None
    assert all(parameter.grad is None for parameter in trainer.backbone.trained_parameters())
    assert torch.equal(_step(trainer).draw.noise, before.draw.noise)  # dropout is off in it
    with torch.no_grad():
        for parameter in trainer.backbone.trained_parameters():
            parameter.add_(0.05)
    after = _step(trainer)
    assert (after.draw.noise - before.draw.noise).abs().max() > 1e-3
    assert torch.equal(after.draw.t, before.draw.t)


def test_the_gradient_is_that_of_the_noise_as_a_number(home):
    """By hand: the same x_t and target, made before, give the step's gradients."""
    trainer = trainer_of(home, "diffusion_dpo", "sd", training=INVERTED)
    micro = _step(trainer)
    x0, noise, t = micro.batch.x0.flatten(0, 1), micro.draw.noise.flatten(0, 1), micro.draw.t.flatten()
    policy = trainer.backbone.view("policy")
    x_t = add_noise(policy.process, x0, noise, t)
    errors = (policy(x_t, t, micro.batch.condition.expand(2)) - noise).square().flatten(1).mean(1).reshape(2, 2)
    reference = trainer._loss.reference_errors(micro.batch, micro.draw)
    gain = reference - errors
    half = trainer.config.objective.beta / 2
    torch.nn.functional.softplus(-half * (gain[:, 0] - gain[:, 1])).mean().backward()
    parameters = trainer.backbone.trained_parameters()
    by_hand = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    trainer._loss.backward(micro, nullcontext, None)
    found = [parameter.grad for parameter in parameters]
    scale = max(each.abs().max() for each in by_hand)
    assert scale > 0
    for one, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale.item())


def test_accumulation_and_chunks_are_the_big_batch(home):
    losses = []
    for more in ({"groups": 4}, {"groups": 2, "accumulation": 2, "max_batch": 3, "two_pass": True}):
        trainer = trainer_of(home, "smpo", "sd", training=INVERTED | more)
        trainer.train_step()
        losses.append(trainer.train_step().metrics["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_resumed_run_finds_the_same_noise(home, tmp_path):
    config = tiny(home, objective={"name": "smpo"}, training=INVERTED | {"checkpoint_every": 2})
    whole = train(config, progress=False).folder
    run = tmp_path / "cut"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-4")
    shutil.rmtree(run / "adapter")
    resume(run, progress=False)
    assert_same_run(run, whole, 4)


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        ({"name": "inversion", "stepz": 3}, "training.noise.stepz: unknown key; did you mean 'steps'?"),
        ({"name": "inversion", "snap": "round"}, "training.noise.snap: must be"),
        ({"name": "inverted"}, "training.noise"),
        (INVERSION, "training.reference_bank: with training.noise: inversion the noise comes from the policy"),
    ],
)
def test_settings_of_the_noise(tmp_path: Path, noise, says):
    training = {"steps": 3, "noise": noise} | ({"reference_bank": 1} if noise is INVERSION else {})
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_settings(tmp_path, training=training))
    assert says in str(caught.value)


def test_without_inversion_a_bank_serves_smpo_too(tmp_path):
    """Drawn noise comes again: only the inversion's does not."""
    tiny(tmp_path, objective={"name": "smpo"}, training={"reference_bank": 1})
