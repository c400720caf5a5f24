"""Every kind of mistake in a config: with its path, the value seen and a way out."""

from __future__ import annotations

import pytest

from diffalign.config import parse_config
from diffalign.config.objectives import OBJECTIVE_PARAMS
from diffalign.exceptions import ConfigError
from tests.config.minimal import problems_of, settings

OBJECTIVE_NAMES = [params.model_fields["name"].default for params in OBJECTIVE_PARAMS]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimiser.learning_rate=1", "optimiser: unknown key; did you mean 'optimizer'?"),
        ("objective.betta=3", "objective.betta: unknown key; did you mean 'beta'?"),
        ("model.lora.rnk=3", "model.lora.rnk: unknown key; did you mean 'rank'?"),
        ("optimizer.lr=1", "optimizer.lr: unknown key; did you mean 'learning_rate'?"),
        ("objective.name=dpo", "got 'dpo'; did you mean 'diffusion_dpo' or 'flow_dpo' or "),
        ("objective.name=kto", "got 'kto'; did you mean 'diffusion_kto'?"),
        ("data.zzz=3", "data.zzz: unknown key; known keys: kind, members, path, split"),
        (
            "evaluation.rewards=[{name: scene}, {name: jpeg, qualty: 1}]",
            "evaluation.rewards.1.qualty: unknown key; did you mean 'quality'?",
        ),
        (
            "evaluation.rewards=[{name: jpeg, forn: strict}]",
            "evaluation.rewards.0.forn: unknown key; known keys: process, cache, name, quality, direction",
        ),
        ("evaluation.sampler={name: ddim, etha: 0.1}", "evaluation.sampler.etha: unknown key; did you mean 'eta'?"),
        (
            "evaluation.sampler={name: flow_euler, steps: 4, eta: 1}",
            "evaluation.sampler.eta: unknown key of flow_euler; known keys: steps, name; to change the sampler: "
            "--set 'evaluation.sampler={name: flow_euler, steps: 4}'",
        ),
        ("time={sampling: shifted, shift: 3, men: 1}", "time.men: unknown key; known keys: sampling, shift"),
        ("training.steps=many", "training.steps: must be a valid integer, got 'many'"),
        ("training.steps=1.5", "training.steps: must be a valid integer"),
        ("training.steps=true", "training.steps: must be a valid integer, got 'true'"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: must be a valid number, got 'fast'"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: must be a finite number, got inf"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate: must be"),
        ("optimizer.betas=0.9", "optimizer.betas: must be a list, got 0.9"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1: must be < 1, got 1.0"),
        ("model.gradient_checkpointing=3", "model.gradient_checkpointing: must be a valid boolean"),
        ("model=sd", "model: must be a section of keys, got 'sd'; known keys: family, path"),
        ("name=7", "name: must be a valid string, got 7"),
        ("optimizer.learning_rate=-0.0001", "optimizer.learning_rate: must be > 0, got -0.0001"),
        ("data.empty_prompt_share=1.5", "data.empty_prompt_share: must be <= 1, got 1.5"),
        ("training.ema_decay=1", "training.ema_decay: must be < 1, got 1"),
        ("seed=-1", "seed: must be >= 0, got -1"),
        (
            "optimizer.schedule=cosin",
            "optimizer.schedule: must be 'constant', 'linear' or 'cosine', got 'cosin'; did you mean",
        ),
        (
            "objective.name=difusion_dpo",
            f"must be one of {', '.join(map(repr, OBJECTIVE_NAMES))}, got 'difusion_dpo'; did you mean 'diffusion_dpo'?",
        ),
        (
            "objective={beta: 3}",
            f"objective.name: required, but missing; one of {', '.join(sorted(OBJECTIVE_NAMES))}",
        ),
        ("time={sampling: shifted}", "time.shift: required, but missing"),
        ("time={sampling: shifted, shift: modle}", "time.shift: must be a number > 0, or 'model', got 'modle'"),
        ("time={sampling: logit_normal, shift: 0}", "time.shift: must be a number > 0, or 'model', got 0"),
        (
            "evaluation.rewards=[{name: jpeg}, {name: vendi}]",
            "evaluation.rewards: 'vendi' scores all pictures together, and a comparison needs a value for each prompt",
        ),
        (
            "evaluation.rewards=[{name: jpeg}, {name: psnr}]",
            "evaluation.rewards: 'psnr' compares each picture with a reference, and pictures drawn for prompts have none; "
            "leave it out, and score records that name references: docs/rewards/full_reference.md",
        ),
        (
            "evaluation.rewards=[{name: video_reward}]",
            "evaluation.rewards: 'video_reward' scores videos, and runs draw pictures; leave it out, and score videos by "
            "load_reward('video_reward', ...): docs/rewards/video_reward.md",
        ),
        (
            "evaluation.rewards=[{name: ocr, least_confidence: 2}]",
            "evaluation.rewards.0.least_confidence: must be <= 1, got 2",
        ),
        ("evaluation.rewards=[{name: vandi}]", "evaluation.rewards.0.name: must be one of 'scene', 'jpeg', 'emoji'"),
        ("name=my run", "name: must match"),
        ("data.columns={promt: caption}", "data.columns.promt: must be 'prompt', "),
        ("data.columns={promt: caption}", "did you mean 'prompt'?"),
    ],
)
def test_problem_says_where_what_and_what_instead(override, says):
    (problem,) = problems_of(override)
    assert says in problem


@pytest.mark.parametrize("section", ["model", "data", "objective", "optimizer", "training"])
def test_missing_section(section):
    content = settings()
    del content[section]
    with pytest.raises(ConfigError, match=f"^1 problem in the config\n  {section}: required, but missing$"):
        parse_config(content)


def test_all_problems_at_once_across_sections():
    problems = problems_of(
        optimizer={"learning_rate": -1, "warmupsteps": 3},
        training={"groups": 0},
        health={"window": 0},
        model={"family": "sdxxl", "path": "x"},
    )
    paths = {problem.split(":")[0] for problem in problems}
    expected = {
        "optimizer.learning_rate",
        "optimizer.warmupsteps",
        "training.groups",
        "training.steps",
        "health.window",
    }
    assert paths == expected | {"model.family"}


def test_dotted_key_in_a_file_is_explained():
    (problem,) = problems_of(**{"optimizer.learning_rate": 1e-4})
    assert "sections are nested: write 'learning_rate:' inside 'optimizer:'" in problem


@pytest.mark.parametrize("content", [{"name.x.y": 1}, {1: 2}, {"evaluation": {"rewards": ({"name": "jpeg", "x": 1},)}}])
def test_odd_keys_are_problems_not_crashes(content):
    assert all(
        "unknown key" in problem for problem in problems_of(**{str(key): value for key, value in content.items()})
    )


def test_long_values_are_cut():
    (problem,) = problems_of(model="x" * 5000)
    assert len(problem) < 300
