"""Draws: what is shared within a group, and that a group's draw is its own."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import GridTime, NoiseDraw, StratifiedTime, draw_noise, uniform_time
from diffalign.exceptions import ShapeError

X0 = torch.zeros(4, 3, 2, 5)


def _generators(groups: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + first + group) for group in range(groups)]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("share_time", [False, True])
@pytest.mark.parametrize("share_noise", [False, True])
def test_members_share_what_they_are_told_to(share_noise, share_time, many, generator):
    draw = draw_noise(
        X0,
        uniform_time,
        generator=_generators(4) if many else generator,
        share_noise=share_noise,
        share_time=share_time,
    )
    assert draw.t.shape == (4, 3) and draw.noise.shape == X0.shape
    assert draw.network_time is None
    assert len(draw.t.unique()) == (4 if share_time else 12)
    assert len(draw.noise.unique()) == (40 if share_noise else 120)
    assert (draw.t == draw.t[:, :1]).all().item() == share_time
    assert (draw.noise == draw.noise[:, :1]).all().item() == share_noise


def test_noise_is_standard_normal(generator):
    draw = draw_noise(torch.zeros(20, 2, 1000), uniform_time, generator=generator, share_noise=False)
    assert draw.noise.mean().abs() < 0.02
    assert abs(draw.noise.std() - 1) < 0.02


def test_same_seed_same_draw():
    for make in (lambda: torch.Generator().manual_seed(7), lambda: _generators(4)):
        first, again = (draw_noise(X0, uniform_time, generator=make()) for _ in range(2))
        assert torch.equal(first.t, again.t) and torch.equal(first.noise, again.noise)


def test_a_groups_draw_does_not_depend_on_the_batch_split():
    whole = draw_noise(X0, uniform_time, generator=_generators(4))
    parts = [
        draw_noise(X0[:1], uniform_time, generator=_generators(1)),
        draw_noise(X0[1:], uniform_time, generator=_generators(3, first=1)),
    ]
    assert torch.equal(whole.t, torch.cat([part.t for part in parts]))
    assert torch.equal(whole.noise, torch.cat([part.noise for part in parts]))


def test_members_do_not_change_the_group_when_shared():
    """A pair and a list of three of one record see the same time and noise."""
    pair = draw_noise(X0[:, :2], uniform_time, generator=_generators(4))
    three = draw_noise(X0, uniform_time, generator=_generators(4))
    assert torch.equal(pair.t, three.t[:, :2]) and torch.equal(pair.noise, three.noise[:, :2])


def test_every_group_may_have_its_own_time_sampler():
    strata = StratifiedTime(4)
    draw = draw_noise(X0, [strata.stratum(group) for group in range(4)], generator=_generators(4))
    assert torch.equal((draw.t[:, 0] * 4).floor(), torch.arange(4.0))
    one_generator = draw_noise(X0, [GridTime(1000, group, group) for group in range(4)])
    assert torch.equal(one_generator.t[:, 0] * 1000, torch.arange(1.0, 5.0))


def test_numbers_of_generators_and_samplers_must_fit():
    with pytest.raises(ShapeError, match="3 generators and 4 time samplers for 4 groups"):
        draw_noise(X0, uniform_time, generator=_generators(3))
    with pytest.raises(ShapeError, match="4 generators and 2 time samplers for 4 groups"):
        draw_noise(X0, [uniform_time] * 2, generator=_generators(4))


@pytest.mark.parametrize(
    ("dtype", "noise"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_times_and_noise_are_at_least_float32(dtype, noise, generator):
    draw = draw_noise(X0.to(dtype), uniform_time, generator=generator)
    assert (draw.t.dtype, draw.noise.dtype) == (torch.float32, noise)


def test_only_the_generator_is_drawn_from(generator):
    before = torch.get_rng_state()
    draw_noise(X0, uniform_time, generator=generator)
    draw_noise(X0, uniform_time, generator=_generators(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_moving_keeps_network_time(generator):
    draw = draw_noise(X0, uniform_time, generator=generator)
    moved = NoiseDraw(draw.t, draw.noise, draw.t / 2).to("cpu")
    assert torch.equal(moved.network_time, draw.t / 2)
    assert draw.to("cpu").network_time is None
