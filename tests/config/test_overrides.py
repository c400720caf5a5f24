"""`--set section.key=value`."""

from __future__ import annotations

import pytest

from diffalign.config import load_config, parse_config
from diffalign.config.yaml_values import write_yaml
from tests.config.minimal import config_file, problems_of, refusal_of, settings


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", "'1e-4'"])
def test_exponent_is_a_number_in_overrides_and_files(tmp_path, text):
    assert parse_config(settings(), [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == 1e-4
    whole = write_yaml(settings()).replace("learning_rate: 0.0001", f"learning_rate: {text}")
    assert whole.count(text) == 1
    assert load_config(config_file(tmp_path, whole)).optimizer.learning_rate == 1e-4


def test_override_makes_sections_and_wins():
    config = parse_config(
        settings(name="file"),
        ["name=set", "model.lora.rank=3", "health.saturation=off", "training.mixed_precision=no", "seed= 5 "],
    )
    assert (config.name, config.model.lora.rank, config.seed) == ("set", 3, 5)
    assert (config.health.saturation, config.training.mixed_precision) == ("off", "no")  # false, to a YAML 1.1 reader


def test_later_override_wins_and_content_stays():
    content = settings()
    assert parse_config(content, ["seed=1", "seed=2"]).seed == 2
    assert "seed" not in content


@pytest.mark.parametrize("override", ["seed", "=3", ".seed=3", "training..steps=3", ""])
def test_malformed_override(override):
    assert refusal_of(override).startswith(f"--set {override!r}: must look like section.key=value")


def test_all_malformed_overrides_at_once():
    assert refusal_of("seed", "x", "name=good").splitlines() == [
        "--set 'seed': must look like section.key=value, for example optimizer.learning_rate=1e-4",
        "--set 'x': must look like section.key=value, for example optimizer.learning_rate=1e-4",
    ]


def test_override_into_a_value_or_a_list():
    assert "objective.name is a value, not a section" in refusal_of("objective.name.x=3")
    rewards = {"rewards": [{"name": "jpeg"}]}
    assert "evaluation.rewards is a list: set it as a whole" in refusal_of(
        "evaluation.rewards.0.quality=3", evaluation=rewards
    )


@pytest.mark.parametrize("text", ["[", "2024-13-45", "08", "{a", "1:30:00"])
def test_odd_override_values_are_text(text):
    assert parse_config(settings(), [f"data.path={text}"]).data.path == text


def test_null_takes_a_value_away():
    assert (
        parse_config(
            settings(training={"steps": 1, "groups": 1, "max_batch": 4}), ["training.max_batch=null"]
        ).training.max_batch
        is None
    )
    assert "write null for none" in problems_of("training.max_batch=none")[0]
