"""Time samplers: their ranges and distributions."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import (
    EDM,
    GridTime,
    LogitNormalTime,
    ShiftedTime,
    StratifiedTime,
    default_time,
    shift_time,
    uniform_time,
)
from tests.denoising.toys import PROCESSES

MANY = 20_000
NORMAL = torch.distributions.Normal(0.0, 1.0)


def _unshift(t, shift):
    return t / (shift - (shift - 1) * t)


def _logit_normal_cdf(mean, std, shift):
    return lambda t: NORMAL.cdf((torch.logit(_unshift(t, shift)) - mean) / std)


SAMPLERS = {
    "uniform": (uniform_time, lambda t: t),
    "shifted": (ShiftedTime(3.0), lambda t: _unshift(t, 3.0)),
    "logit_normal": (LogitNormalTime(), _logit_normal_cdf(0, 1, 1)),
    "logit_normal_moved": (LogitNormalTime(0.5, 0.7, 3.0), _logit_normal_cdf(0.5, 0.7, 3.0)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_distribution(name, generator):
    """The largest gap between the empirical and the true distribution (Kolmogorov-Smirnov, p about 1e-4)."""
    sampler, distribution = SAMPLERS[name]
    t = sampler((MANY,), generator=generator, device="cpu")
    assert t.dtype == torch.float32
    assert t.min() >= 0 and t.max() < 1
    ordered = t.double().sort().values
    gap = (distribution(ordered) - (torch.arange(MANY) + 0.5) / MANY).abs().max()
    assert gap < 2.2 / MANY**0.5


def test_shift_formula():
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(shift_time(t, 3.0), torch.tensor([0.0, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(shift_time(t, 1.0), t)


def test_grid_time_takes_every_entry_equally(generator):
    t = GridTime(20)((MANY,), generator=generator)
    grid = (torch.arange(20) + 1).float() / 20
    assert torch.isin(t, grid).all()
    counts = torch.bincount((t * 20).round().long(), minlength=21)
    assert counts[0] == 0
    chi_square = ((counts[1:] - MANY / 20) ** 2 / (MANY / 20)).sum()
    assert chi_square < 52  # 19 degrees of freedom, p about 1e-4


def test_grid_time_lies_on_the_process_grid(generator):
    process = PROCESSES["vp"]
    t = default_time(process)((MANY,), generator=generator, device="cpu")
    assert torch.isin(t, process.grid).all()
    assert torch.equal(process.index(t), process.index(t).round())
    assert process.index(t).min() == 0 and process.index(t).max() == 999


def test_grid_time_may_be_narrowed(generator):
    t = GridTime(1000, first=200, last=202)((500,), generator=generator)
    assert (t * 1000).round().unique().tolist() == [201, 202, 203]


def test_default_without_a_grid_is_uniform():
    assert default_time(PROCESSES["linear_flow"]) is uniform_time
    assert default_time(EDM()) is uniform_time


@pytest.mark.parametrize("entries", [None, 1000])
def test_one_draw_in_each_stratum(entries, generator):
    sampler = StratifiedTime(8, entries)
    t = sampler((8, 1), generator=generator)
    part = (t.flatten() * 8 - (1e-3 if entries else 0)).floor()  # grid times are the upper ends of their cells
    assert part.sort().values.tolist() == list(range(8))
    assert part.tolist() != list(range(8))  # in random order
    if entries:
        assert torch.isin(t, PROCESSES["vp"].grid).all()


def test_a_stratum_alone(generator):
    sampler = StratifiedTime(5)
    for part in range(10):  # a trainer counts on: 5 is the first again
        t = sampler.stratum(part)((100, 1), generator=generator, device="cpu")
        assert t.shape == (100, 1)
        assert (t * 5).floor().unique().tolist() == [part % 5]
        assert t.max() - t.min() > 0.15


def test_strata_together_are_uniform_over_the_table(generator):
    sampler = StratifiedTime(4, 100)
    t = torch.cat([sampler.stratum(part)((5000,), generator=generator, device="cpu") for part in range(4)])
    counts = torch.bincount((t * 100).round().long(), minlength=101)
    assert counts[0] == 0
    assert (counts[1:] - 200).abs().max() < 70


@pytest.mark.parametrize("strata", [8, 63, 4096])
def test_the_last_stratum_stays_below_one(strata, monkeypatch):
    """In float32 63 + 0.99999994 is 64."""
    monkeypatch.setattr(
        "diffalign.denoising.time.uniform_time", lambda shape, **_: torch.full(shape, 1 - 2**-24, dtype=torch.float32)
    )
    assert StratifiedTime(strata).stratum(strata - 1)((1,), generator=None, device="cpu") < 1
    assert StratifiedTime(strata, 1000).stratum(strata - 1)((1,), generator=None, device="cpu") == 1  # the last entry


def test_stratified_needs_as_many_draws_as_strata(generator):
    with pytest.raises(ValueError, match="3 draws asked of 4 strata"):
        StratifiedTime(4)((3, 1), generator=generator)


@pytest.mark.parametrize(
    "sampler", [uniform_time, ShiftedTime(3.0), LogitNormalTime(), GridTime(1000), StratifiedTime(6)]
)
def test_same_seed_same_times_and_nothing_else_is_drawn(sampler):
    before = torch.get_rng_state()
    first, again = (sampler((6, 2), generator=torch.Generator().manual_seed(3), device="cpu") for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (6, 2)
    assert torch.equal(torch.get_rng_state(), before)
