"""What is written back: equal to what was read, whatever the values look like in YAML."""

from __future__ import annotations

import math

import pytest
import yaml

from diffalign.config import load_config, parse_config, save_config
from diffalign.config.loading import list_configs
from tests.config.minimal import problems_of, settings


@pytest.mark.parametrize("name", list_configs())
def test_round_trip_of_packaged_configs(name, tmp_path):
    config = load_config(name)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


ODD_TEXTS = [
    "no",
    "off",
    "1e5",
    "1e-4",
    "true",
    "null",
    "~",
    "0x1f",
    "010",
    "2024-01-01",
    "1:30",
    "данные/пары ✓",
    " a: b # c",
    "",
    "=",
    "<<",
    "'",
    "\n",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_round_trip_of_odd_texts(text, tmp_path):
    path = text if text.strip() else "x"
    config = parse_config(settings(data={"path": path, "cache": path, "columns": {"prompt": text}}))
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8"))["data"]["columns"]["prompt"] == text
    assert not list(tmp_path.glob(".*"))  # no draft is left


def test_round_trip_of_infinity_and_rare_settings(tmp_path):
    config = parse_config(
        settings(
            time={"sampling": "logit_normal", "std": 0.5}, evaluation={"sampler": {"name": "flow_euler", "steps": 3}}
        ),
        ["optimizer.max_grad_norm=inf", "optimizer.learning_rate=1e-300", "model.lora.targets=[to_q, to_k]"],
    )
    assert math.isinf(config.optimizer.max_grad_norm)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_unicode_names_are_kept_in_paths_and_refused_in_the_run_s_name():
    assert parse_config(settings(), ["data.path=дані/☃.jsonl"]).data.path == "дані/☃.jsonl"
    assert "name: must match" in problems_of("name=прогон")[0]
    assert "name: must match" in problems_of("name=../up")[0]
