"""Online runs with the flow's stochastic steps, and on SDXL and FLUX."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffalign.config import parse_config
from diffalign.samplers import step_log_prob
from diffalign.training.build_trainer import build_trainer
from diffalign.types import Condition
from tests.backbones.models import OPTIONS, path_of
from tests.data.pictures import picture_file, write_rows
from tests.training.online import online
from tests.training.tiny import tiny_settings

SDE = {"name": "flow_sde", "steps": 4, "eta": 0.7}
KL = {"name": "flow_grpo", "kl_weight": 0.04}
SCENE = [{"name": "scene", "form": "graded"}]


@pytest.mark.parametrize(
    ("sampler", "by_level"),
    [
        (SDE, True),
        (SDE | {"form": "dance", "eta": 0.3}, True),
        (SDE | {"form": "cps", "eta": 0.8}, False),
        (SDE | {"window": {"length": 2, "first": 1}}, True),
        ({"name": "ddim", "steps": 4, "eta": 1.0}, False),
    ],
    ids=["flow_grpo", "dance", "cps", "window", "ddim"],
)
def test_the_divergence_is_divided_as_in_the_authors_code(tmp_path, sampler, by_level):
    """By s_t = std / sqrt(-dt) of the Euler-Maruyama steps, as sd3_sde_with_logprob.py; else by the step's own std."""
    settings = {"sampler": sampler, "members": 3, "passes": 2}
    trainer = build_trainer(online(tmp_path, KL, "sd3", online=settings, optimizer={"learning_rate": 0.01}))
    first = trainer.train_step().metrics
    assert first["ratio"] == 1.0 and first["kl"] == 0.0
    chunk, drawing = trainer._rounds[0].chunks[0], trainer._generator
    path = replace(chunk.trajectory, condition=trainer._condition(chunk))
    steps = path.stochastic.nonzero().flatten()
    if "window" in sampler:
        assert steps.tolist() == [1, 2]
    with torch.no_grad():
        policy, reference = (
            step_log_prob(drawing.denoiser(view), drawing.sampler, path, steps.tolist())
            for view in ("policy", "reference")
        )
    gap = (policy.mean - reference.mean).square().flatten(3).mean(3)
    variance = policy.std**2
    if by_level:
        variance = variance / (path.times[steps] - path.times[steps + 1])[:, None, None]
    by_hand = (gap / (2 * variance)).mean().item()
    assert by_hand > 0
    assert trainer.train_step().metrics["kl"] == pytest.approx(by_hand, rel=1e-4)


def of(home, family, objective, **sections):
    """A run on the tiny pipeline of a family, which draws for four prompts."""
    (home / "prompts.txt").write_text("a red circle\ntwo blue crosses\na green square\none yellow circle\n")
    settings = tiny_settings(
        home, data={"kind": "prompts", "path": str(home / "prompts.txt"), "resolution": 32}, objective=objective
    )
    settings["model"] = {"family": family, "path": path_of(family), "lora": {"rank": 2, "alpha": 2}} | OPTIONS[family]
    settings["training"] |= {"steps": 2, "groups": 2}
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section
    return parse_config(settings)


def told(trainer):
    """What the trained network is told of guidance in a step."""
    return trainer._micro_batch(0).batch.condition.leaves.get("guidance")


def test_flux_draws_with_one_guidance_and_trains_with_another(tmp_path):
    """The scale that a distilled network is told while drawing is not the one that denoising errors are measured at."""
    judged = {"rewards": SCENE, "guidance_scale": 3.5, "sampler": {"name": "flow_euler", "steps": 2}, "members": 2}
    config = of(tmp_path, "flux", {"name": "nft", "kl_weight": 0.0}, online=judged, model={"guidance": 1.0})
    trainer = build_trainer(config)
    trainer._begin_step()
    chunk = trainer._rounds[0].chunks[0]
    assert trainer._condition(chunk).leaves["guidance"].tolist() == [3.5, 3.5]
    assert told(trainer) is None  # the network takes model.guidance
    assert torch.tensor(list(trainer.train_step().metrics.values())).isfinite().all()


def test_flux_scores_steps_with_the_guidance_that_drew_them(tmp_path):
    judged = {"rewards": SCENE, "guidance_scale": 3.5, "sampler": SDE | {"steps": 3}, "members": 2}
    metrics = build_trainer(of(tmp_path, "flux", {"name": "flow_grpo"}, online=judged)).train_step().metrics
    assert metrics["ratio"] == 1.0


@pytest.mark.parametrize("name", ["d3po", "diffusion_dpo"])
def test_sdxl_draws_and_learns(tmp_path, name):
    sampler = {"name": "ddim", "steps": 3, "eta": 1.0}
    judged = {"rewards": [{"name": "jpeg"}], "guidance_scale": 5.0, "sampler": sampler, "members": 2}
    metrics = build_trainer(of(tmp_path, "sdxl", {"name": name}, online=judged)).train_step().metrics
    assert metrics["gradient_norm"] > 0 and metrics.get("margin", 0.0) == pytest.approx(0.0, abs=1e-6)


def test_sdxl_experts_are_drawn_with_guidance(tmp_path):
    """A picture's own size stands beside the empty prompt too."""
    (tmp_path / "a.png").write_bytes(picture_file(1, (48, 40)))
    (tmp_path / "b.png").write_bytes(picture_file(2, (32, 64)))
    pairs = [{"prompt": f"a circle {n}", "chosen": "a.png", "rejected": "b.png"} for n in range(4)]
    write_rows(tmp_path / "metadata.jsonl", pairs)
    drawn = {"sampler": {"name": "ddim", "steps": 3}, "guidance_scale": 3.0}
    data = {"kind": "pairs", "path": str(tmp_path)}
    metrics = (
        build_trainer(of(tmp_path, "sdxl", {"name": "diffusion_dro"}, data=data, online=drawn)).train_step().metrics
    )
    assert metrics["own_gradient_norm"] > 0


def test_conditions_with_other_leaves_are_not_joined():
    """A leaf that one lacks would be dropped without a word."""
    with pytest.raises(ValueError, match="time_ids"):
        Condition({"states": torch.zeros(1)}).join(Condition({"states": torch.zeros(1), "time_ids": torch.zeros(1)}))
