"""Going on with other hardware: only how the groups of a step are spread may change."""

from __future__ import annotations

import pytest

from diffalign.config import load_config
from diffalign.config.yaml_values import write_yaml
from diffalign.exceptions import ConfigError
from diffalign.training.batch_split import resumed_config, split_advice
from tests.training.tiny import tiny, tiny_settings


@pytest.fixture
def file(tmp_path):
    """8 groups a step: 2 at once, twice, in 2 processes."""
    path = tmp_path / "config.yaml"
    settings = tiny_settings(tmp_path, training={"groups": 2, "accumulation": 2, "processes": 2})
    path.write_text(write_yaml(settings), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "split"),
    [
        ([], (2, 2, 2)),
        (["training.processes=1", "training.accumulation=4"], (1, 4, 2)),
        (["training.processes=4", "training.accumulation=1"], (4, 1, 2)),
        (["training.processes=8", "training.accumulation=1", "training.groups=1"], (8, 1, 1)),
    ],
)
def test_same_groups_otherwise_spread(file, overrides, split):
    training = resumed_config(file, overrides).training
    assert (training.processes, training.accumulation, training.groups) == split


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        (["training.processes=1"], "--set training.processes=1 --set training.accumulation=4"),
        (["training.processes=8"], "--set training.processes=8 --set training.accumulation=1 --set training.groups=1"),
        (["training.processes=3"], "processes must divide 8: 1, 2, 4, 8"),
        (["training.accumulation=3"], "take --set training.processes=2"),
    ],
)
def test_other_groups_are_refused_with_numbers_that_work(file, overrides, advice):
    with pytest.raises(
        ConfigError, match=r"training.processes: a step of this run takes 8 groups, and groups 2 x "
    ) as told:
        resumed_config(file, overrides)
    assert str(told.value).endswith(advice)


@pytest.fixture
def bucketed(tmp_path):
    """The same with buckets: 4 times 2 groups of one bucket."""
    path = tmp_path / "config.yaml"
    settings = tiny_settings(
        tmp_path,
        data={"path": str(tmp_path), "buckets": {"step": 8}},
        training={"groups": 2, "accumulation": 2, "processes": 2},
    )
    path.write_text(write_yaml(settings), encoding="utf-8")
    return path


def test_groups_of_a_bucket_stay_together(bucketed):
    training = resumed_config(bucketed, ["training.processes=4", "training.accumulation=1"]).training
    assert (training.processes, training.accumulation, training.groups) == (4, 1, 2)
    says = (
        r"training.groups: with data.buckets the order of the records follows .*, so this run goes on with 2, not 1; "
    )
    with pytest.raises(ConfigError, match=says) as told:
        resumed_config(bucketed, ["training.processes=8", "training.accumulation=1", "training.groups=1"])
    assert str(told.value).endswith("processes must divide 4: 1, 2, 4")
    with pytest.raises(ConfigError, match=says) as told:
        resumed_config(bucketed, ["training.groups=1", "training.accumulation=4"])
    assert str(told.value).endswith("take --set training.processes=2")


@pytest.mark.parametrize("processes", range(1, 9))
def test_advice_with_buckets_leaves_groups_alone(bucketed, processes):
    advice = split_advice(load_config(bucketed), processes)
    if 4 % processes:
        assert advice == "processes must divide 4: 1, 2, 4"
        return
    assert "training.groups" not in advice
    overrides = advice.removeprefix("take ").replace("--set ", "").split()
    assert resumed_config(bucketed, overrides).training.processes == processes


@pytest.mark.parametrize(
    "override", ["training.steps=9", "seed=1", "training.sharding=fsdp2", "training", "objective.beta=1"]
)
def test_nothing_else_may_change(file, override):
    with pytest.raises(ConfigError, match=r"--set .*: a run goes on with its own config; of that only training.proc"):
        resumed_config(file, ["training.processes=1", "training.accumulation=4", override])


@pytest.mark.parametrize("processes", range(1, 13))
def test_advice_holds(tmp_path, processes):
    config = tiny(tmp_path, training={"groups": 2, "accumulation": 3, "processes": 2})
    advice = split_advice(config, processes)
    if 12 % processes:
        assert advice == "processes must divide 12: 1, 2, 3, 4, 6, 12"
        return
    path = tmp_path / "config.yaml"
    settings = tiny_settings(tmp_path, training={"groups": 2, "accumulation": 3, "processes": 2})
    path.write_text(write_yaml(settings), encoding="utf-8")
    overrides = advice.removeprefix("take ").replace("--set ", "").split()
    assert resumed_config(path, overrides).training.processes == processes
