"""The one table: every row's facts agree with its function; and the baseline `sft`."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch

from diffalign.config.objectives import OBJECTIVE_PARAMS
from diffalign.denoising import Prediction
from diffalign.exceptions import ConfigError
from diffalign.objectives import OBJECTIVES, ObjectiveOutput, get_objective, sft

ROWS = pytest.mark.parametrize(("name", "row"), OBJECTIVES.items(), ids=OBJECTIVES)


def inputs_of(row, groups=4, dtype=torch.float64):
    """Random inputs by name: residuals have elements, `preference` and `baseline` none or one value a group."""
    generator = torch.Generator().manual_seed(5)
    members = 2 if row.params.layout == "pairs" else 1 if row.params.layout == "points" else 3

    def draw(name):
        if name.endswith("residual"):
            return torch.randn(groups, members, 2, 2, generator=generator, dtype=dtype)
        if name == "preference":
            return torch.rand(groups, generator=generator, dtype=dtype)
        if name == "baseline":
            return torch.rand((), generator=generator, dtype=dtype)
        if name == "label":
            return 2.0 * torch.randint(0, 2, (groups, members), generator=generator).to(dtype) - 1
        if name == "valid":
            return torch.ones(groups, members, dtype=torch.bool)
        return torch.rand(groups, members, generator=generator, dtype=dtype)

    return draw(row.params.first), {name: draw(name) for name in (*row.params.needs, *row.params.optional)}


@ROWS
def test_signature_is_needs_and_settings(name, row):
    parameters = inspect.signature(row.function).parameters
    keywords = {key for key, it in parameters.items() if it.kind is inspect.Parameter.KEYWORD_ONLY}
    settings = set(row.params.model_fields) - {"name"}
    assert keywords == set(row.params.needs) | set(row.params.optional) | settings
    assert not set(row.params.needs) & settings
    assert [key for key in parameters if key not in keywords] == [row.params.first]


# Options beside a method's own settings, which are off unless given: the papers' calls stay short.
DPO_OPTIONS = ("loss", "label_smoothing")
MAY_BE_LEFT_OUT = {
    "diffusion_dpo": DPO_OPTIONS,
    "flow_dpo": DPO_OPTIONS,
    "flow_grpo": ("advantage_clip", "guard", "max_divergence", "kl_weight"),
}


@ROWS
def test_defaults_live_in_the_settings_only(name, row):
    for parameter in inspect.signature(row.function).parameters.values():
        if parameter.name in MAY_BE_LEFT_OUT.get(name, ()) and parameter.default in (None, False, 0.0, "sigmoid"):
            continue
        assert parameter.default is (None if parameter.name in row.params.optional else inspect.Parameter.empty)
    row.params()  # every setting has a default there


@ROWS
def test_row_names_itself(name, row):
    assert row.params().name == name == row.function.__name__
    assert re.search(r"\d{4}|baseline", row.params.paper)
    assert row.params.data
    assert row.measure is None or row.measure in {prediction.value for prediction in Prediction}
    assert get_objective(name) is row


def test_every_settings_class_has_a_row():
    assert {row.params for row in OBJECTIVES.values()} == set(OBJECTIVE_PARAMS)


@ROWS
def test_row_runs_with_its_settings(name, row):
    policy, inputs = inputs_of(row)
    policy.requires_grad_()
    output = row.function(policy, **inputs, **row.params().model_dump(exclude={"name"}))
    assert output.loss.shape == (4,) and output.loss.isfinite().all()
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and gradient.any()
    for figure in output.metrics.values():
        assert figure.shape == () and not figure.requires_grad


# What a method takes and, with its default settings, does not read.
UNREAD = {"flow_dpo": ("t",)}


@ROWS
def test_a_nan_spoils_its_group_alone_and_is_counted(name, row):
    settings = row.params().model_dump(exclude={"name"})
    policy, inputs = inputs_of(row)
    assert row.function(policy, **inputs, **settings).bad_groups == 0
    for spoilt in (row.params.first, *row.params.needs):
        everything = {row.params.first: policy.clone(), **{key: value.clone() for key, value in inputs.items()}}
        if everything[spoilt].ndim == 0 or spoilt in UNREAD.get(name, ()):
            continue
        everything[spoilt][1 if everything[spoilt].ndim == 1 else (1, 0)] = torch.nan
        first = everything.pop(row.params.first).requires_grad_()
        output = row.function(first, **everything, **settings)
        assert output.loss.isnan().tolist() == [False, True, False, False], spoilt
        assert output.bad_groups == 1 and not output.bad_groups.requires_grad
        gradient = torch.autograd.grad(output.loss.sum(), first)[0]
        assert gradient[[0, 2, 3]].isfinite().all(), spoilt


def test_an_infinite_loss_is_bad_too():
    assert ObjectiveOutput(torch.tensor([1.0, torch.inf, -torch.inf, torch.nan]), {}).bad_groups == 3


# For the test below: settings that leave nothing but the margin's loss, and that loss's slope where it is not 1/2.
PLAIN = {
    "alpha_dpo": {"alpha": 0.5, "adaptive": False},
    "cpo": {"weight": 0.0},
    "dgpo": {"form": "logistic", "clip": None, "kl_weight": 0.0},
    "f_dpo": {"f_divergence": "reverse_kl"},
    "rank_dpo": {"normalise": "sum"},
    "simpo": {"gamma": 0.0},
    "smpo": {"scale": 1.0},
}
MEMBER_0_WINS = {
    "preference": [1.0],
    "baseline": 0.0,
    **{key: [[1.0, -1.0]] for key in ("label", "reward", "advantage")},
}
SLOPE = {
    "alpha_dpo": math.sqrt(0.5) - 0.5,
    "diffusion_kto": 1 / 4,  # of a sigmoid
    "dmpo": math.log(99) / 4,  # of the KL divergence to (0.99, 0.01)
    "ipo": 1.0,  # of (z - 1/2)^2
}


@ROWS
def test_beta_factor_is_what_multiplies_beta(name, row):
    """With a small beta the loss falls by factor * beta * gap * its slope at margin 0; 1/2 for a logistic loss."""
    if row.params.beta_factor is None:
        assert "beta" not in row.params.model_fields or name == "nft"  # nft's mixes networks and weighs no error
        return
    if name in ("crd", "dspo"):
        return  # squares, not the loss of a margin: see their own tests
    policy = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    inputs = {name: torch.full((1, 2), 0.5, dtype=torch.float64) for name in row.params.needs}
    inputs |= {
        name: torch.tensor(value, dtype=torch.float64) for name, value in MEMBER_0_WINS.items() if name in inputs
    }
    gap = 0.5  # how much further apart the policy's errors are than the reference's
    if row.params.first == "log_prob":
        policy, gap = 0.5 + torch.tensor([[0.01, -0.01]], dtype=torch.float64), 0.02  # within the clip
    if row.params.first == "policy_residual":
        policy, inputs = policy.sqrt()[..., None], {name: value.sqrt()[..., None] for name, value in inputs.items()}
    if row.params.layout == "points":
        policy, gap = policy[:, :1], 0.25
        inputs = {name: value[:, :1] if value.ndim else value for name, value in inputs.items()}
    settings = row.params().model_dump(exclude={"name"}) | PLAIN.get(name, {})
    start, loss = (row.function(policy, **inputs, **settings | {"beta": beta}).loss.item() for beta in (1e-12, 1e-4))
    slope = SLOPE.get(name, 0.5)
    assert start - loss == pytest.approx(row.params.beta_factor * 1e-4 * gap * slope, rel=1e-4)


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(
        ConfigError, match=r"no objective 'difusion_dpo'; there are .*flow_dpo.*; did you mean 'diffusion_dpo'"
    ):
        get_objective("difusion_dpo")
    with pytest.raises(ConfigError, match="there are") as caught:
        get_objective("zzz")
    assert "did you mean" not in str(caught.value)


def test_sft_is_the_error_of_the_best_member():
    policy = torch.rand(5, 3, requires_grad=True)
    output = sft(policy)
    assert torch.equal(output.loss, policy[:, 0])
    assert output.metrics == {}
    output.loss.sum().backward()
    assert torch.equal(policy.grad, torch.tensor([1.0, 0.0, 0.0]).expand(5, 3))
