"""The primitive: same numbers through every prediction type, one call per network, no dtype or gradient surprises."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import (
    NoiseDraw,
    Prediction,
    add_noise,
    conversion_factor,
    denoising_errors,
    draw_noise,
    uniform_time,
)
from diffalign.exceptions import ShapeError
from diffalign.types import Condition
from tests.denoising.toys import PROCESSES, SAMPLES, Fixed, Seen, condition_of

FLOW = PROCESSES["linear_flow"]


def _inner_time(shape, *, generator, device="cpu"):
    return 0.05 + 0.9 * uniform_time(shape, generator=generator, device=device)


def _setting(generator, sample=(3, 4, 5), *, groups=3, members=2, dtype=torch.float32, **options):
    x0 = torch.randn(groups, members, *sample, generator=generator, dtype=dtype)
    return x0, condition_of(groups), draw_noise(x0, _inner_time, generator=generator, **options)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("name", PROCESSES)
def test_noise_error_does_not_depend_on_the_prediction(name, sample, generator):
    process = PROCESSES[name]
    x0, condition, draw = _setting(generator, sample, share_time=False, dtype=torch.float64)
    seen = {}
    for prediction in Prediction:
        network = Seen(process, prediction)
        seen[prediction] = denoising_errors(network, None, x0, condition, draw, measure=Prediction.NOISE).policy
    assert seen[Prediction.NOISE].min() > 1e-12
    for prediction in Prediction:
        torch.testing.assert_close(seen[prediction], seen[Prediction.NOISE], rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", Prediction)
def test_errors_are_the_mean_square_of_output_minus_target(prediction, generator):
    """Written the long way, sample by sample, in the network's own space."""
    process = PROCESSES["vp"]
    x0, condition, draw = _setting(generator, share_time=False, share_noise=False)
    network = Seen(process, prediction)
    found = denoising_errors(network, None, x0, condition, draw).policy
    for group in range(3):
        for member in range(2):
            t = draw.t[group, member]
            alpha, sigma = process.alpha(t[None]).item(), process.sigma(t[None]).item()
            clean, noise = x0[group, member], draw.noise[group, member]
            target = {
                Prediction.NOISE: noise,
                Prediction.SAMPLE: clean,
                Prediction.V: alpha * noise - sigma * clean,
                Prediction.FLOW: noise - clean,
                Prediction.EDM: sigma * clean - alpha * noise,  # sigma_data = 1 on a VP process
            }[prediction]
            said = network((alpha * clean + sigma * noise)[None], t[None], condition[group : group + 1])[0]
            torch.testing.assert_close(found[group, member], (said - target).square().mean(), rtol=1e-5, atol=1e-6)


def test_measure_is_the_factor_squared(generator):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    own = denoising_errors(network, None, x0, condition, draw).policy
    assert torch.equal(denoising_errors(network, None, x0, condition, draw, measure=Prediction.FLOW).policy, own)
    noise = denoising_errors(network, None, x0, condition, draw, measure=Prediction.NOISE).policy
    torch.testing.assert_close(noise, (1 - draw.t) ** 2 * own)
    factor = conversion_factor(FLOW, Prediction.FLOW, Prediction.SAMPLE, draw.t.flatten()).reshape(draw.t.shape)
    sample = denoising_errors(network, None, x0, condition, draw, measure=Prediction.SAMPLE).policy
    torch.testing.assert_close(sample, factor**2 * own)


def test_measure_that_is_not_defined_raises(generator):
    x0, condition, draw = _setting(generator)
    draw = NoiseDraw(torch.ones_like(draw.t), draw.noise)
    network = Fixed(FLOW, Prediction.NOISE, x0)
    denoising_errors(network, None, x0, condition, draw)
    with pytest.raises(ShapeError, match="noise prediction cannot be measured as flow at t = 1"):
        denoising_errors(network, None, x0, condition, draw, measure=Prediction.FLOW)


def test_same_draw_same_numbers_to_the_bit(generator):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    first, again = (denoising_errors(network, network, x0, condition, draw) for _ in range(2))
    assert torch.equal(first.policy, again.policy)
    assert torch.equal(first.policy, first.reference)
    assert torch.equal(first.t, draw.t)


def test_permuting_groups_permutes_errors(generator):
    x0, condition, draw = _setting(generator, groups=4)
    network, order = Seen(FLOW, Prediction.FLOW), torch.tensor([2, 0, 3, 1])
    there = denoising_errors(network, None, x0, condition, draw).policy
    moved = denoising_errors(network, None, x0[order], condition[order], NoiseDraw(draw.t[order], draw.noise[order]))
    torch.testing.assert_close(moved.policy, there[order])


# ---------------------------------------------------------------- calls and gradients


def test_every_network_is_called_once_on_the_same_x_t(generator):
    x0, condition, draw = _setting(generator)
    inputs = []
    networks = [
        Seen(FLOW, Prediction.FLOW, look=lambda x_t, t, told: inputs.append((x_t, t, told.leaves["shift"])))
        for _ in range(3)
    ]
    denoising_errors(networks[0], networks[1], x0, condition, draw, others={"ema": networks[2]})
    assert [network.batches for network in networks] == [[6], [6], [6]]
    flat = draw.t.flatten()
    for x_t, t, shift in inputs:
        torch.testing.assert_close(x_t, add_noise(FLOW, x0.flatten(0, 1), draw.noise.flatten(0, 1), flat))
        assert torch.equal(t, flat)
        assert torch.equal(shift, condition.leaves["shift"].repeat_interleave(2, 0))  # g0 g0 g1 g1, not tiled


@pytest.mark.parametrize(("size", "batches"), [(1, [1] * 6), (4, [4, 2]), (6, [6]), (100, [6])])
def test_max_batch_chunks_with_the_same_numbers(size, batches, generator):
    x0, condition, draw = _setting(generator, share_time=False)
    network, whole = Seen(FLOW, Prediction.FLOW), Seen(FLOW, Prediction.FLOW)
    chunked = denoising_errors(network, network, x0, condition, draw, max_batch=size)
    expected = denoising_errors(whole, whole, x0, condition, draw)
    assert network.batches == batches * 2
    torch.testing.assert_close(chunked.policy, expected.policy)
    torch.testing.assert_close(chunked.reference, expected.reference)
    chunked.policy.sum().backward()
    expected.policy.sum().backward()
    torch.testing.assert_close(network.weight.grad, whole.weight.grad)


@pytest.mark.parametrize("size", [0, -1])
def test_max_batch_must_be_positive(size, generator):
    x0, condition, draw = _setting(generator)
    with pytest.raises(ShapeError, match=f"max_batch: must be at least 1, got {size}"):
        denoising_errors(Seen(FLOW, Prediction.FLOW), None, x0, condition, draw, max_batch=size)


def test_only_the_policy_has_a_gradient(generator):
    x0, condition, draw = _setting(generator)
    policy, reference, ema = (Seen(FLOW, Prediction.FLOW) for _ in range(3))
    errors = denoising_errors(policy, reference, x0, condition, draw, others={"ema": ema}, residuals=True)
    assert errors.policy.requires_grad and errors.residuals["policy"].requires_grad
    assert not errors.reference.requires_grad and not errors.others["ema"].requires_grad
    assert not errors.residuals["reference"].requires_grad and not errors.residuals["ema"].requires_grad
    assert (policy.had_grad, reference.had_grad, ema.had_grad) == ([True], [False], [False])
    errors.policy.mean().backward()
    assert policy.weight.grad.abs() > 0
    assert reference.weight.grad is None and ema.weight.grad is None
    assert torch.is_grad_enabled()


def test_under_no_grad_nothing_has_a_gradient(generator):
    x0, condition, draw = _setting(generator)
    policy = Seen(FLOW, Prediction.FLOW)
    with torch.no_grad():
        errors = denoising_errors(policy, None, x0, condition, draw)
    assert policy.had_grad == [False] and not errors.policy.requires_grad
    assert errors.reference is None and errors.others == {} and errors.residuals is None


def test_networks_may_differ_in_process_and_prediction(generator):
    """Each is asked in its own process, and measured in one space."""
    x0, condition, draw = _setting(generator)
    policy, other = Seen(FLOW, Prediction.FLOW), Seen(PROCESSES["vp"], Prediction.V)
    both = denoising_errors(policy, other, x0, condition, draw, measure=Prediction.NOISE)
    alone = denoising_errors(other, None, x0, condition, draw, measure=Prediction.NOISE)
    torch.testing.assert_close(both.reference, alone.policy.detach())


def test_residuals_others_and_errors_agree(generator):
    x0, condition, draw = _setting(generator)
    networks = [Seen(FLOW, Prediction.FLOW, weight=weight) for weight in (0.1, 0.2, 0.3)]
    errors = denoising_errors(
        networks[0],
        networks[1],
        x0,
        condition,
        draw,
        others={"ema": networks[2]},
        residuals=True,
        measure=Prediction.NOISE,
    )
    assert set(errors.residuals) == {"policy", "reference", "ema"}
    named = {"policy": errors.policy, "reference": errors.reference, **errors.others}
    for name, residual in errors.residuals.items():
        assert residual.shape == x0.shape
        torch.testing.assert_close(residual.square().flatten(2).mean(2), named[name])


@pytest.mark.parametrize("name", ["policy", "reference"])
def test_others_may_not_take_a_taken_name(name, generator):
    x0, condition, draw = _setting(generator)
    policy, other = Seen(FLOW, Prediction.FLOW), Seen(FLOW, Prediction.FLOW, weight=0.1)
    with pytest.raises(ShapeError, match=f"others: .*{name}"):
        denoising_errors(policy, None, x0, condition, draw, others={name: other})


def test_network_time_is_what_the_network_is_told(generator):
    x0, condition, draw = _setting(generator)
    told = []
    network = Seen(FLOW, Prediction.FLOW, look=lambda x_t, t, _: told.append((x_t, t)))
    at = torch.full_like(draw.t, 0.125)
    errors = denoising_errors(network, None, x0, condition, NoiseDraw(draw.t, draw.noise, at))
    x_t, t = told[0]
    assert torch.equal(t, at.flatten()) and torch.equal(errors.t, draw.t)
    torch.testing.assert_close(x_t, add_noise(FLOW, x0.flatten(0, 1), draw.noise.flatten(0, 1), draw.t.flatten()))


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_keep_float32_errors(dtype, generator):
    x0, condition, draw = _setting(generator)
    network = Seen(PROCESSES["vp"], Prediction.V, dtype=dtype)
    full = denoising_errors(Seen(PROCESSES["vp"], Prediction.V), None, x0, condition, draw).policy
    half = denoising_errors(network, network, x0.to(dtype), condition, draw, residuals=True, measure=Prediction.NOISE)
    assert half.policy.dtype == half.reference.dtype == half.residuals["policy"].dtype == torch.float32
    own = denoising_errors(network, None, x0, condition, draw).policy
    torch.testing.assert_close(own, full, rtol=0.02, atol=0.02)
    assert not torch.equal(own, own.to(dtype).float())  # reduced in float32: not a number of that dtype


def test_small_differences_of_a_bf16_network_survive():
    """Errors of 0.1234 and 0.1235 are one number in bfloat16; the primitive must tell them apart."""
    x0 = torch.zeros(1, 2, 10_000)
    draw = NoiseDraw(torch.full((1, 2), 0.5), torch.zeros_like(x0))
    output = torch.full((1, 2, 10_000), 0.125, dtype=torch.bfloat16)
    output[0, 1, :50] += 0.0625  # the mean square grows by 0.6 %
    errors = denoising_errors(Fixed(FLOW, Prediction.FLOW, output), None, x0, condition_of(1), draw).policy
    expected = torch.tensor([[0.125**2, (0.125**2 * 9950 + 0.1875**2 * 50) / 10_000]])
    torch.testing.assert_close(errors, expected, rtol=1e-5, atol=0)
    assert errors[0, 0].bfloat16() == (errors[0, 0] + 1e-5).bfloat16()


def test_float64_stays_float64(generator):
    x0, condition, draw = _setting(generator, dtype=torch.float64)
    assert draw.noise.dtype == torch.float64 and draw.t.dtype == torch.float32
    network = Seen(PROCESSES["vp"], Prediction.V)
    errors = denoising_errors(
        network, network, x0, condition, draw, measure=Prediction.NOISE, residuals=True, mask=torch.ones(1)
    )
    assert errors.policy.dtype == errors.reference.dtype == errors.residuals["policy"].dtype == torch.float64


# ---------------------------------------------------------------- masks and shapes


def test_mask_weighs_elements(generator):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    weight = torch.rand(x0.shape, generator=generator)
    plain = denoising_errors(network, None, x0, condition, draw, residuals=True)
    masked = denoising_errors(network, None, x0, condition, draw, mask=weight).policy
    square = plain.residuals["policy"].square()
    torch.testing.assert_close(masked, (square * weight).flatten(2).sum(2) / weight.flatten(2).sum(2))
    everywhere = denoising_errors(network, None, x0, condition, draw, mask=torch.full((1,), 3.0)).policy
    torch.testing.assert_close(everywhere, plain.policy)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (1, 1, 1, 4, 5), (3, 1, 1, 4, 5), (3, 2, 3, 4, 5)])
def test_masks_broadcast_and_may_be_boolean(shape, generator):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[..., :2] = True
    residual = denoising_errors(network, None, x0, condition, draw, residuals=True).residuals["policy"]
    found = denoising_errors(network, None, x0, condition, draw, mask=mask).policy
    chosen = mask.expand(x0.shape)
    for group in range(3):
        for member in range(2):
            expected = residual[group, member][chosen[group, member]].square().mean()
            torch.testing.assert_close(found[group, member], expected)


def test_shape_errors_say_what_was_seen(generator):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    with pytest.raises(ShapeError, match=r"mask \(3, 7\) does not broadcast to x0 \(3, 2, 3, 4, 5\)"):
        denoising_errors(network, None, x0, condition, draw, mask=torch.ones(3, 7))
    with pytest.raises(ShapeError, match=r"condition has 2 rows for 3 groups"):
        denoising_errors(network, None, x0, condition[:2], draw)
    with pytest.raises(ShapeError, match="network answered"):
        learned_variance = Fixed(FLOW, Prediction.FLOW, x0)
        learned_variance.__class__ = type(
            "Wider", (Fixed,), {"__call__": lambda self, x_t, t, condition: torch.cat([x_t, x_t], 1)}
        )
        denoising_errors(learned_variance, None, x0, condition, draw)


def test_a_draw_for_other_samples_is_refused(generator, unchecked_types):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    for wrong in (
        NoiseDraw(draw.t[:2], draw.noise),
        NoiseDraw(draw.t, draw.noise[:, :, :2]),
        NoiseDraw(draw.t, draw.noise, draw.t[:, :1]),
    ):
        with pytest.raises(ShapeError, match="draw with draw_noise"):
            denoising_errors(network, None, x0, condition, wrong)


def test_per_member_leaves_reach_their_member(generator):
    x0, _, draw = _setting(generator)
    each = torch.arange(6.0).reshape(3, 2, 1)
    condition = Condition({"shift": each}, per_member=frozenset({"shift"}))
    told = []
    network = Seen(FLOW, Prediction.FLOW, look=lambda x_t, t, condition: told.append(condition.leaves["shift"]))
    denoising_errors(network, None, x0, condition, draw, max_batch=4)
    assert torch.equal(torch.cat(told).flatten(), torch.arange(6.0))


def test_a_mask_that_leaves_nothing_of_a_member_is_refused(generator):
    x0, condition, draw = _setting(generator)
    network = Seen(FLOW, Prediction.FLOW)
    mask = torch.ones(3, 2, 1, 1, 1)
    mask[1, 1] = 0
    with pytest.raises(ShapeError, match="mask is 0 everywhere for member 1 of group 1: a mean over no element"):
        denoising_errors(network, None, x0, condition, draw, mask=mask)
    mask[2] = 0
    with pytest.raises(ShapeError, match="member 1 of group 1 and 2 more"):
        denoising_errors(network, None, x0, condition, draw, mask=mask)
