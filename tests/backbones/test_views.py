"""Policy, reference and snapshots: which weights each runs on, and who gets gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diffalign.backbones import LoRASettings
from diffalign.denoising import Denoiser, denoising_errors
from diffalign.objectives import diffusion_dpo
from tests.backbones.models import LORA, answer, load, load_fresh, perturb, training_inputs


def _errors(backbone):
    x0, condition, draw = training_inputs(backbone)
    return denoising_errors(backbone.view("policy"), backbone.view("reference"), x0, condition, draw)


def _trainable(backbone):
    return {name for name, parameter in backbone.network.named_parameters() if parameter.requires_grad}


def _gradients(backbone):
    errors = _errors(backbone)
    diffusion_dpo(errors.policy, reference=errors.reference, beta=100.0).loss.mean().backward()
    return {name: parameter.grad for name, parameter in backbone.network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_dpo_loss_is_log_two(family, dtype):
    errors = _errors(load(family, dtype=dtype))
    assert torch.equal(errors.policy, errors.reference)
    loss = diffusion_dpo(errors.policy, reference=errors.reference, beta=5000.0).loss
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))


def test_the_adapter_moves_the_policy_alone(family):
    backbone = load(family)
    before = answer(backbone, "reference")
    assert torch.equal(answer(backbone), before)
    perturb(backbone)
    assert torch.equal(answer(backbone, "reference"), before)
    assert not torch.allclose(answer(backbone), before, atol=1e-4)
    assert torch.equal(before, answer(load(family, lora=None), "reference"))  # the base model itself


def test_a_view_is_a_denoiser(trained):
    view = trained.view("policy")
    assert isinstance(view, Denoiser)
    assert (view.process, view.prediction) == (trained.process, trained.prediction)


def test_switching_views_never_changes_requires_grad(family):
    backbone = load(family)
    before = _trainable(backbone)
    assert before and all(".policy." in name and "lora_" in name for name in before)
    assert {id(p) for p in backbone.trained_parameters()} == {
        id(parameter) for name, parameter in backbone.network.named_parameters() if name in before
    }
    backbone.snapshot("ema")
    for view in ("reference", "ema", "policy", "reference"):
        answer(backbone, view)
        assert _trainable(backbone) == before
        with backbone.active(view):
            assert _trainable(backbone) == before


def test_an_error_inside_a_view_switches_back(trained):
    expected = answer(trained)
    with pytest.raises(RuntimeError, match="on purpose"), trained.active("reference"):
        raise RuntimeError("on purpose")
    assert torch.equal(answer(trained), expected)


def test_gradients_reach_the_policys_adapter_only(family):
    backbone = load(family)
    perturb(backbone)
    backbone.snapshot("behaviour")
    gradients = _gradients(backbone)
    assert gradients.keys() == _trainable(backbone)
    moved = [name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0]
    assert len(moved) >= 0.9 * len(gradients)  # SD3's last block has no use for its text stream
    for name, parameter in backbone.network.named_parameters():
        assert name in gradients or parameter.grad is None


def test_gradient_checkpointing_gives_the_same_gradients(family):
    plain, saving = load(family), load(family, gradient_checkpointing=True)
    assert saving.network.is_gradient_checkpointing
    for backbone in (plain, saving):
        perturb(backbone)
        backbone.snapshot("ema")  # the backward pass recomputes: it must do so as the policy
    expected, found = _gradients(plain), _gradients(saving)
    assert any(gradient.abs().max() > 1e-6 for gradient in expected.values() if gradient is not None)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapter_weights_are_float32_whatever_the_base(family, dtype):
    backbone = load(family, dtype=dtype)
    perturb(backbone)
    backbone.snapshot("ema")
    assert backbone.dtype == dtype
    kinds = {"lora": set(), "base": set()}
    for name, parameter in backbone.network.named_parameters():
        kinds["lora" if "lora_" in name else "base"].add(parameter.dtype)
    assert kinds == {"lora": {torch.float32}, "base": {dtype}}
    assert answer(backbone).dtype == dtype
    assert not torch.equal(answer(backbone), answer(backbone, "reference"))


# ---------------------------------------------------------------- snapshots


def test_snapshot_copies_and_then_stays(family):
    backbone = load(family)
    perturb(backbone)
    backbone.snapshot("behaviour")
    expected = answer(backbone)
    torch.testing.assert_close(answer(backbone, "behaviour"), expected, rtol=0, atol=0)
    perturb(backbone, seed=1)
    assert not torch.allclose(answer(backbone), expected, atol=1e-4)
    assert torch.equal(answer(backbone, "behaviour"), expected)
    backbone.snapshot("behaviour")
    assert torch.equal(answer(backbone, "behaviour"), answer(backbone))


def test_snapshot_with_decay_is_a_running_average():
    backbone = load("sd")
    states = []
    for seed in range(3):
        perturb(backbone, seed=seed)
        states.append({name: value.clone() for name, value in backbone.state().items()})
        backbone.snapshot("ema", decay=0.9)
    average = backbone.state("ema")
    for name, value in average.items():
        expected = 0.9 * (0.9 * states[0][name] + 0.1 * states[1][name]) + 0.1 * states[2][name]
        torch.testing.assert_close(value, expected)
    assert any(not torch.allclose(value, states[2][name]) for name, value in average.items())


def test_a_missing_view_says_what_there_is(trained):
    with pytest.raises(
        ValueError, match=r"no view 'ema'; there are reference, policy; make one with snapshot\('ema'\)"
    ):
        trained.view("ema")


def test_without_lora_there_is_only_the_reference(family):
    backbone = load(family, lora=None)
    assert backbone.trained_parameters() == []
    with pytest.raises(ValueError, match="loaded without LoRA"):
        backbone.view("policy")
    with pytest.raises(ValueError, match="loaded without LoRA"):
        backbone.snapshot("ema")


def test_all_views_go_through_the_prepared_network(family):
    backbone = load(family)
    calls = []

    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            calls.append(1)
            return self.inner(*args, **kwargs)

    backbone.prepare(Wrapper)
    backbone.snapshot("ema")
    for view in ("policy", "reference", "ema"):
        answer(backbone, view)
    assert len(calls) == 3


# ---------------------------------------------------------------- randomness


@pytest.mark.parametrize("init", ["gaussian", "default"])
def test_same_seed_same_adapter(family, init):
    settings = LoRASettings(rank=4, alpha=4.0, init=init, seed=3)
    first, again, other = (load(family, lora=replace(settings, seed=seed)).state() for seed in (3, 3, 4))
    assert first.keys() == again.keys()
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if "lora_A" in name:
            assert not torch.equal(value, other[name])
        else:
            assert not value.any()
    drawn = torch.cat([value.flatten() for name, value in first.items() if "lora_A" in name])
    if init == "gaussian":
        assert drawn.std().item() == pytest.approx(1 / 4, rel=0.05)


def test_loading_and_adding_leave_the_global_generator_alone(family):
    before = torch.get_rng_state()
    backbone = load_fresh(family)
    backbone.snapshot("ema")
    answer(backbone)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_acts_only_where_gradients_are_recorded(family, checkpointing):
    backbone = load(family, lora=replace(LORA, dropout=0.5), gradient_checkpointing=checkpointing)
    plain = load(family)
    for each in (backbone, plain):
        perturb(each)
    x0, condition, draw = training_inputs(backbone)
    inputs = (x0[:, 0], draw.t[:, 0], condition)
    assert torch.equal(answer(backbone), answer(plain))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, again = (backbone.view("policy")(*inputs) for _ in range(2))
        assert not torch.allclose(first, again)
        assert torch.equal(answer(backbone), answer(plain))  # and off again
        assert torch.equal(backbone.view("reference")(*inputs), answer(plain, "reference"))
        backbone.snapshot("ema")
        assert torch.equal(answer(backbone, "ema"), answer(plain))


def test_dropout_is_replayed_by_gradient_checkpointing(family):
    gradients = []
    for checkpointing in (False, True):
        backbone = load(family, lora=replace(LORA, dropout=0.3), gradient_checkpointing=checkpointing)
        perturb(backbone)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            gradients.append(_gradients(backbone))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)
