"""`check --memory` and `check --fit`."""

from __future__ import annotations

import json

import pytest

from diffalign.cli.memory import parse_size
from diffalign.config.yaml_values import read_yaml
from diffalign.exceptions import ConfigError
from tests.cli.conftest import run_process

QUICK = (
    "check",
    "--config",
    "quickstart/diffusion_dpo.yaml",
    "--set",
    "training.groups=4",
    "--set",
    "samples.every=null",
    "--set",
    "data.encode_batch=1",  # each halving would be one more dry run
    "--set",
    "evaluation.batch=1",
)
NARROW = ("model.gradient_checkpointing=true", "training.mixed_precision=bf16", "model.precision=bf16")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24e9),
        ("24GiB", 24 * 2**30),
        ("80 GB", 80e9),
        ("16384MB", 16384e6),
        ("1.5tb", 1.5e12),
        (" 1 gib ", 2**30),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "", "GB", "-1GB", "0GB", "24 G", "24GBit", "a24GB", "1e3GB", "inf GB"])
def test_bad_sizes_are_one_message(text):
    with pytest.raises(ConfigError, match="--fit: must be a size above 0 with its unit, such as 24GB"):
        parse_size(text)


def test_table_says_what_takes_how_much(call):
    result = call(*QUICK, "--memory")
    assert result.exit_code == 0, result.exception
    for word in ("caching", "training", "frozen weights", "optimizer", "allowance (a guess)", "cache on disk"):
        assert word in result.stdout
    assert "fits" not in result.stdout


def test_what_fits_is_said(call):
    result = call(*QUICK, "--fit", "24GB")
    assert "fits in 24.00 GB" in result.stdout
    assert "--set" not in result.stdout


@pytest.mark.slow
def test_what_does_not_fit_gets_settings_that_can_be_pasted(call):
    needed = json.loads(call(*QUICK, "--memory", "--json").stdout)["memory"]["stages"]["training"]["needed"]
    result = call(*QUICK, "--fit", f"{needed / 1e6 - 1:.3f}MB")
    assert result.exit_code == 0, result.exception
    assert "--set model.gradient_checkpointing=true" in result.stdout
    pasted = read_yaml(result.stdout.partition("fits with all of these:\n")[2])
    assert pasted["model"] == {"gradient_checkpointing": True}


@pytest.mark.slow
def test_json_holds_proposals_in_bytes(call):
    told = [part for each in NARROW for part in ("--set", each)]
    facts = json.loads(call(*QUICK, *told, "--fit", "1MB", "--json").stdout)
    memory = facts["memory"]
    assert facts["groups_per_step"] == 4
    assert memory["fits"] is memory["fits_then"] is False
    assert memory["limit"] == 10**6
    assert [each["needed"] for each in memory["proposals"]] == sorted(
        (each["needed"] for each in memory["proposals"]), reverse=True
    )
    assert all(each["changes"] and each["why"] for each in memory["proposals"])


def test_bad_size_ends_with_2_before_anything_is_loaded(tmp_path):
    done = run_process(*QUICK, "--fit", "24", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --fit: ")
