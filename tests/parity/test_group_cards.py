"""Numbers recorded in float64 from the papers' formulas, written independently of this package.

Source: the method notes on GDRO (section 8), Flow-RWR (section 8), RankDPO (section 9), GDPO-SR (section 8), DRAGON
(section 7) and DSO (section 10). Six digits each.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffalign.data.reward_votes import share_of_rivals_beaten
from diffalign.denoising import LinearFlow, LogitNormalTime, NoiseDraw, Prediction, denoising_errors
from diffalign.objectives import diffusion_dpo, dragon, dso_dro, flow_rwr, gdpo_sr, gdro, rank_dpo
from diffalign.objectives.advantages import Convention, group_advantage
from diffalign.objectives.rank_dpo import _dcg_weight
from diffalign.rewards.sr_attribute import attribute_aware_reward
from tests.denoising.toys import Fixed, condition_of

FLOW = LinearFlow()


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _six(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


# ---------------------------------------------------------------- GDRO

THETA, FROZEN = _rows([0.40, 0.46, 0.50, 0.47]), _rows([0.45] * 4)
REWARD = _rows([0.9, 0.5, 0.1, 0.6])


def _gdro(policy=THETA, reference=FROZEN, reward=REWARD, beta=12.0, tau=0.05, gamma=0.0, ranking="full", ties="order"):
    return gdro(
        policy,
        reference=reference,
        reward=reward,
        beta=beta,
        tau=tau,
        gamma=gamma,
        ranking=ranking,
        ties=ties,
        normalise="none",
    )


def _by_score(score: list[float], reward: list[float], **options):
    """GDRO on given scores, with beta 1 and a reference of 0."""
    policy = -_rows(score)
    return _gdro(policy, torch.zeros_like(policy), _rows(reward), beta=1.0, **options)


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({}, 2.305786),
        ({"tau": 0.5}, 2.948762),
        ({"tau": 0.0}, 2.317597),
        ({"tau": 1e-4}, 2.317597),
        ({"ranking": "top1"}, 0.799670),
        ({"ranking": "top1", "tau": 0.5}, 1.264070),
        ({"gamma": 0.5}, 2.505786),
    ],
)
@pytest.mark.parametrize("ties", ["order", "average"])
def test_gdro_values(options, loss, ties):
    _six(_gdro(ties=ties, **options).loss, [loss])


def test_gdro_terms():
    """Members sorted by reward are 1, 4, 2, 3: what remains after each removal is a smaller problem's first term."""
    left = [0, 3, 1, 2]
    for start, term in enumerate([0.799670, 1.024280, 0.481836]):
        some = left[start:]
        _six(_gdro(THETA[:, some], FROZEN[:, some], REWARD[:, some], ranking="top1").loss, [term])


def test_gdro_target_and_divergence():
    target = (REWARD / 0.05).softmax(1)
    _six(target, [[0.997194, 0.000335, 0.000000, 0.002472]])
    cross = _gdro(ranking="top1", tau=0.5).loss
    soft = (REWARD / 0.5).softmax(1)
    _six(cross + (soft * soft.log()).sum(1), [0.015701])


@pytest.mark.parametrize(
    ("score", "gradient"),
    [
        ([0.60, -0.12, -0.60, -0.24], [-0.546674, 0.116932, 0.764521, -0.334779]),
        ([0.0, 0.0, 0.0, 0.0], [-0.747194, -0.035864, 1.082958, -0.299900]),
        ([18.0, 10.0, 2.0, 12.0], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_gdro_gradients(score, gradient):
    policy = -_rows(score).requires_grad_()
    found = torch.autograd.grad(_gdro(policy, torch.zeros_like(policy), beta=1.0).loss.sum(), policy)[0]
    _six(-found, [gradient])
    _six(found.sum(), 0.0)


def test_gdro_at_the_reference_and_at_the_optimum():
    _six(_by_score([0.0] * 4, REWARD[0].tolist()).loss, [3.178054])
    _six(_by_score([0.0] * 4, REWARD[0].tolist()).loss, [math.log(24)])
    _six(_by_score((REWARD[0] / 0.05).tolist(), REWARD[0].tolist()).loss, [0.389102])


def test_gdro_on_two_members():
    two = {"policy": THETA[:, :2], "reference": FROZEN[:, :2], "reward": REWARD[:, :2]}
    _six(_gdro(**two, tau=0.0).loss, [0.396594])
    _six(_gdro(**two).loss, [0.396836])
    _six(-torch.nn.functional.logsigmoid(_rows([0.72])[0]), [0.396594])


def test_gdro_ties():
    _six(_by_score([0.2, -0.1, -0.3], [1.0, 1.0, 0.0]).loss, [1.601425])
    _six(_by_score([-0.1, 0.2, -0.3], [1.0, 1.0, 0.0]).loss, [1.477364])
    _six(_by_score([0.2, -0.1, -0.3], [1.0, 1.0, 0.0], ties="average").loss, [(1.601425 + 1.477364) / 2])


def test_gdro_on_latents():
    x0 = _rows([0.5, -0.25, 1.0, 0.0], [-0.5, 0.75, 0.25, 1.0], [0.1, 0.2, -0.3, 0.4])[None]
    noise = _rows([0.2, -0.4, 0.6, -0.8]).expand(1, 3, 4)
    velocity = noise - x0
    theta = velocity + _rows([0.10, -0.20, 0.05, 0.15], [0.30, 0.10, -0.20, 0.25], [0.2, 0.2, 0.1, -0.1])
    frozen = velocity + _rows([0.20, -0.20, 0.10, 0.20], [0.25, 0.10, -0.15, 0.20], [0.2, 0.1, 0.1, -0.1])
    errors = denoising_errors(
        Fixed(FLOW, Prediction.FLOW, theta),
        Fixed(FLOW, Prediction.FLOW, frozen),
        x0,
        condition_of(1),
        NoiseDraw(torch.full((1, 3), 0.5), noise),
    )
    reward = _rows([1.0, 0.25, 0.75])
    _six(12 * (errors.reference - errors.policy), [[0.165, -0.2025, -0.09]])
    _six(_gdro(errors.policy, errors.reference, reward).loss, [1.543347])
    _six(_gdro(errors.policy, errors.reference, reward, gamma=0.5).loss, [1.552722])
    _six(_gdro(errors.policy, errors.reference, reward, beta=6.0).loss, [1.664121])
    summed = errors.policy * 4, errors.reference * 4
    _six(12 * (summed[1] - summed[0]), [[0.66, -0.81, -0.36]])
    _six(_gdro(*summed, reward).loss, [0.964158])
    _six(_gdro(*summed, reward, gamma=0.5).loss, [1.001658])


# ---------------------------------------------------------------- Flow-RWR


@pytest.mark.parametrize(("weighting", "loss"), [("exp", 0.039616), ("softmax", 0.026710), ("raw", -0.000094)])
def test_flow_rwr_values(weighting, loss):
    errors, reward = _rows([0.018750, 0.050625]), _rows([0.8, -0.3])
    output = flow_rwr(errors, reward=reward, weighting=weighting, temperature=1.0, negative="keep")
    _six(output.loss, [loss])


def test_flow_rwr_weights():
    reward, ones = _rows([0.8], [-0.3]), torch.ones(2, 1, dtype=torch.float64)
    output = flow_rwr(ones, reward=reward, weighting="exp", temperature=1.0, negative="zero")
    _six(output.loss, [2.225541, 0.740818])


# ---------------------------------------------------------------- RankDPO

SCORES = _rows(
    [0.28, 0.30, 0.26, 0.25],
    [21.5, 21.1, 22.0, 20.9],
    [0.8, 0.9, 0.1, -0.2],
    [0.71, 0.66, 0.68, 0.60],
    [12.1, 11.0, 11.5, 10.2],
)[:, None]
RANKED, RANKED_REFERENCE = _rows([0.1219, 0.1233, 0.1228, 0.1210]), _rows([0.1216, 0.1230, 0.1231, 0.1214])
SHARE = _rows([0.8, 0.6, 0.6, 0.0])


def _rank_dpo(policy=RANKED, reference=RANKED_REFERENCE, reward=SHARE, beta=5000.0, normalise="none"):
    return rank_dpo(policy, reference=reference, reward=reward, beta=beta, normalise=normalise, rank_by="reward")


def test_rank_dpo_labels():
    _six(share_of_rivals_beaten(SCORES), [[0.8, 0.6, 0.6, 0.0]])
    _six(torch.expm1(math.log(2) * SHARE), [[0.741101, 0.515717, 0.515717, 0.0]])
    _six(torch.log1p(_rows([1.0, 2.0, 3.0, 4.0])), [[0.693147, 1.098612, 1.386294, 1.609438]])


def test_rank_dpo_weights():
    expected = {(0, 1): 0.120007, (0, 2): 0.162581, (0, 3): 0.608711, (1, 2): 0.0, (1, 3): 0.148993, (2, 3): 0.051578}
    weight = _dcg_weight(SHARE, SHARE, torch.ones(1, 4, dtype=torch.bool))[0]
    for (better, worse), value in expected.items():
        _six(weight[better, worse], value)
        _six(weight[worse, better], value)
    _six(_rank_dpo().metrics["weight_sum"], sum(expected.values()))


@pytest.mark.parametrize(("normalise", "loss"), [("none", 1.849784), ("pairs", 0.308297), ("sum", 1.694143)])
def test_rank_dpo_values(normalise, loss):
    _six(RANKED - RANKED_REFERENCE, [[3e-4, 3e-4, -3e-4, -4e-4]])
    _six(_rank_dpo(normalise=normalise).loss, [loss])  # kappa 2500 in the notes is beta / 2


def test_rank_dpo_with_log2_is_a_loss_scale():
    _six(_rank_dpo().loss * math.log(2), [1.282172])


def test_rank_dpo_against_unweighted_pairs():
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    policy = torch.cat([RANKED[:, pair] for pair in pairs])
    reference = torch.cat([RANKED_REFERENCE[:, pair] for pair in pairs])
    _six(diffusion_dpo(policy, reference=reference, beta=5000.0).loss.mean(), 1.457060)


@pytest.mark.parametrize(("beta", "loss"), [(5000.0, 0.149854), (10000.0, 0.050662)])
def test_rank_dpo_second_case(beta, loss):
    policy, reference = _rows([0.1210, 0.1233, 0.1228, 0.1219]), _rows([0.1216, 0.1230, 0.1225, 0.1211])
    _six(_rank_dpo(policy, reference, _rows([0.9, 0.6, 0.35, 0.1]), beta=beta).loss, [loss])


def test_rank_dpo_discount_of_a_pair():
    policy, reference = _rows([0.2, 0.3]), _rows([0.25, 0.25])
    pair = diffusion_dpo(policy, reference=reference, beta=3.0).loss
    _six(_rank_dpo(policy, reference, _rows([1.0, 0.0]), beta=3.0).loss / pair, [0.532456])


# ---------------------------------------------------------------- GDPO-SR

ATTRIBUTES = {"smooth": _rows([0.30])[0], "texture": _rows([0.70])[0], "min_range": 1e-8}
STANDARD = [[-1.380415, 0.685696, 0.784942, -0.090223]]


def _sr_reward() -> Tensor:
    perceptual = torch.stack([_rows([60.0, 66.0, 70.0, 62.0]), _rows([0.40, 0.55, 0.60, 0.45])])
    return attribute_aware_reward(_rows([24.0, 25.0, 23.0, 26.0]), perceptual, **ATTRIBUTES)


def test_gdpo_sr_reward_and_advantage():
    reward = _sr_reward()
    _six(reward, [[0.100000, 0.672500, 0.700000, 0.457500]])
    _six(group_advantage(reward, convention="gdpo_sr").values, STANDARD)
    biased = group_advantage(reward, convention=Convention(ddof=0, epsilon=1e-8))
    _six(biased.values, [[-1.593966, 0.791774, 0.906373, -0.104181]])


def test_gdpo_sr_values():
    advantage = group_advantage(_sr_reward(), convention="gdpo_sr").values
    policy, reference = _rows([0.0100, 0.0112, 0.0105, 0.0120]), _rows([0.0102, 0.0115, 0.0104, 0.0121])
    output = gdpo_sr(policy, reference=reference, advantage=advantage, beta=5000.0)
    _six(output.metrics["margin"], -0.394727)
    _six(output.loss, [0.909861])
    _six(gdpo_sr(policy, reference=policy, advantage=advantage, beta=5000.0).loss, [math.log(2)])


# ---------------------------------------------------------------- DRAGON


def test_dragon_kto_values():
    policy, reference = _rows([0.42], [0.58], [0.30], [0.61]), _rows([0.50], [0.55], [0.33], [0.60])
    gain = reference - policy
    _six(gain[:, 0], [0.08, -0.03, 0.03, -0.01])
    _six(gain.mean(), 0.017500)
    output = dragon(
        policy,
        reference=reference,
        label=_rows([1.0], [-1.0], [1.0], [-1.0]),
        baseline=gain.mean(),
        contrast="kto",
        beta=2.0,
        desirable=1.0,
        undesirable=1.0,
    )
    _six(output.loss.mean(), 0.481266)


@pytest.mark.parametrize("good_first", [True, False])
@pytest.mark.parametrize(("beta", "inside", "loss"), [(1.0, -0.590549, 1.031396), (10.0, -5.905490, 5.908211)])
def test_dragon_dpo_values(beta, inside, loss, good_first):
    policy, reference = _dso_errors()
    order, label = ([0, 1], [1.0, -1.0]) if good_first else ([1, 0], [-1.0, 1.0])
    output = dragon(
        policy[:, order],
        reference=reference[:, order],
        label=_rows(label),
        contrast="dpo",
        beta=beta,
        desirable=1.0,
        undesirable=1.0,
    )
    _six(output.metrics["margin"], inside)
    _six(output.loss, [loss])


# ---------------------------------------------------------------- DSO


def _dso_errors() -> tuple[Tensor, Tensor]:
    x0, noise = _rows([1.0, 0.5], [-1.0, 0.25])[None], _rows([0.3, -0.2], [-0.5, 0.8])[None]
    x_t = 0.4 * x0 + 0.6 * noise
    errors = denoising_errors(
        Fixed(FLOW, Prediction.FLOW, 0.5 * x_t + 0.1),
        Fixed(FLOW, Prediction.FLOW, -0.6 * x_t - 0.2),
        x0,
        condition_of(1),
        NoiseDraw(torch.full((1, 2), 0.6), noise),
    )
    return errors.policy, errors.reference


def test_dso_errors():
    policy, reference = _dso_errors()
    _six(policy, [[0.946850, 0.294050]])
    _six(reference, [[0.113704, 0.642002]])


def test_dso_dro_values():
    policy, _ = _dso_errors()
    _six(dso_dro(policy, max_bad_error=None, max_bad_ratio=None, bad_weight=1.0).loss, [0.652800])
    signed = dso_dro(policy, label=_rows([1.0, -1.0]), max_bad_error=None, max_bad_ratio=None, bad_weight=1.0)
    _six(2 * signed.loss, [0.652800])
    labelled = dso_dro(
        _rows([0.42, 0.58, 0.30]), label=_rows([1.0, -1.0, 1.0]), max_bad_error=None, max_bad_ratio=None, bad_weight=1.0
    )
    _six(labelled.loss, [0.046667])


@pytest.mark.parametrize(
    ("beta", "inside", "loss"),
    [(1.0, -0.590549, 1.031396), (10.0, -5.905490, 5.908211), (500.0, -295.274500, 295.274500)],
)
def test_dso_dpo_values(beta, inside, loss):
    policy, reference = _dso_errors()
    output = diffusion_dpo(policy, reference=reference, beta=beta)
    _six(output.metrics["margin"], inside)
    _six(output.loss, [loss])


def test_dso_times(monkeypatch):
    """TRELLIS's stage 1 and DSO draw t = sigmoid(1 + z)."""
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.tensor([-1.0, 0.0, 0.5]).expand(shape))
    t = LogitNormalTime(mean=1.0, std=1.0)((3,), generator=None, device="cpu").double()
    _six(t, [0.500000, 0.731059, 0.817574])


def test_dso_dpo_with_swapped_roles():
    policy, reference = (errors.flip(1) for errors in _dso_errors())
    _six(diffusion_dpo(policy, reference=reference, beta=1.0).loss, [0.440847])
