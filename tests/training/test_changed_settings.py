"""What a resumed run compares of its config: all that its steps follow from, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from diffalign.config import RunConfig, with_absolute_paths
from diffalign.exceptions import ConfigError
from diffalign.training.changed_settings import check_unchanged, settings_of
from tests.training.tiny import tiny

COSINE = {"learning_rate": 1e-3, "schedule": "cosine"}
CURRICULUM = {"pair_weight": {"name": "curriculum", "largest_gap": 1.0}}


def pictures(home: Any, *, buckets: Any = None, columns: Any = None, **training: Any) -> RunConfig:
    data = {"path": str(home), "kind": "groups", "buckets": buckets, "columns": columns or {}}
    return tiny(home, data=data, objective={"name": "gdro"}, training=training)


def refused(before: RunConfig, after: RunConfig) -> str:
    with pytest.raises(ConfigError, match=r"config.yaml is not the one that step 3 was trained with; put it ") as told:
        check_unchanged(settings_of(before), after, 3)
    return str(told.value)


@pytest.mark.parametrize("sections", [{}, {"optimizer": COSINE}, {"data": {"path": ".", "buckets": {}}}])
def test_settings_that_an_older_version_did_not_know_had_their_defaults(tmp_path, sections):
    """Whichever is missing of those that stand at their default; and so is a whole section."""
    config = tiny(tmp_path, **sections)
    saved = settings_of(config)
    required = {"model.path", "model.family", "data.path", "optimizer.learning_rate", "objective.name"}
    given = {
        name for name in saved if name.startswith(("model.lora.", "objective.", "data.buckets", "training.groups x"))
    }
    given.add("optimizer.schedule")
    names = saved.keys() - required - given
    assert {"data.fit", "model.quantise", "training.measure", "time.sampling"} <= names
    for name in names:
        check_unchanged({key: value for key, value in saved.items() if key != name}, config, 3)
    for section in ("time.", "model.reference."):
        check_unchanged({key: value for key, value in saved.items() if not key.startswith(section)}, config, 3)


def test_a_setting_that_was_not_known_and_is_not_at_its_default(tmp_path):
    saved = settings_of(tiny(tmp_path))
    del saved["training.ema_decay"]
    with pytest.raises(ConfigError, match=r"  training.ema_decay: was None, is 0.5"):
        check_unchanged(saved, tiny(tmp_path, training={"ema_decay": 0.5}), 3)
    saved = {key: value for key, value in settings_of(tiny(tmp_path)).items() if not key.startswith("time.")}
    with pytest.raises(ConfigError, match=r"  time.sampling: was 'uniform', is 'stratified'"):
        check_unchanged(saved, tiny(tmp_path, time={"sampling": "stratified"}), 3)


def test_sections_that_come_and_go(tmp_path):
    """A default inside a section that was absent is no reason to take the section for one that was there."""
    plain, bucketed = pictures(tmp_path), pictures(tmp_path, buckets={})
    assert "  data.buckets.step: was None, is 64" in refused(plain, bucketed)
    assert "  data.buckets.step: was 64, is None" in refused(bucketed, plain)
    columns = pictures(tmp_path, columns={"items": "images"})
    assert "  data.columns.items: was None, is 'images'" in refused(plain, columns)
    assert "  data.columns.items: was 'images', is None" in refused(columns, plain)
    assert "  training.pair_weight.name: was None, is 'curriculum'" in refused(
        tiny(tmp_path), tiny(tmp_path, training=CURRICULUM)
    )


def test_groups_of_a_forward_are_free_without_buckets(tmp_path):
    before = pictures(tmp_path, groups=4)
    check_unchanged(settings_of(before), pictures(tmp_path, groups=2, accumulation=2), 3)
    bucketed = pictures(tmp_path, buckets={}, groups=4)
    told = refused(bucketed, pictures(tmp_path, buckets={}, groups=2, accumulation=2))
    assert told.endswith(
        "  training.groups: was 4, is 2 (with data.buckets the order of the records follows from it)"
    ), "and nothing else"
    check_unchanged(settings_of(bucketed), pictures(tmp_path, buckets={}, groups=4), 3)
    saved = settings_of(bucketed)
    del saved["training.groups"]  # as checkpoints were before it was kept
    check_unchanged(saved, bucketed, 3)


def test_steps_are_free_where_nothing_is_divided_by_them(tmp_path):
    check_unchanged(settings_of(tiny(tmp_path)), tiny(tmp_path, training={"steps": 9}), 3)
    told = refused(tiny(tmp_path, optimizer=COSINE), tiny(tmp_path, optimizer=COSINE, training={"steps": 9}))
    assert told.endswith("  training.steps: was 4, is 9 (optimizer.schedule: cosine ends at the last step)")
    told = refused(tiny(tmp_path, training=CURRICULUM), tiny(tmp_path, training={**CURRICULUM, "steps": 9}))
    assert told.endswith("was 4, is 9 (the stages of training.pair_weight: curriculum are shares of all steps)")
    told = refused(tiny(tmp_path, optimizer=COSINE), tiny(tmp_path, training={"steps": 9}))
    assert told.endswith("  optimizer.schedule: was 'cosine', is 'constant'") and "training.steps" not in told


def test_a_relative_path_is_the_absolute_one_of_the_run_folder(tmp_path, monkeypatch):
    """A run writes its paths whole into config.yaml, whatever was given."""
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    config = tiny(tmp_path, data={"path": "pairs", "resolution": 16})
    absolute = with_absolute_paths(config)
    assert absolute.data.path == str(tmp_path / "pairs")
    check_unchanged(settings_of(config), absolute, 1)


def test_rewards_of_a_run_find_their_files_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    rewards = ({"name": "clip", "model": "clip", "cache": "kept"}, {"name": "learned", "path": "runs/nowhere"})
    config = tiny(tmp_path, evaluation={"prompts": None, "rewards": rewards})
    clip, learned = with_absolute_paths(config).evaluation.rewards
    assert (clip.model, clip.cache) == (str(tmp_path / "clip"), str(tmp_path / "kept"))
    assert learned.path == "runs/nowhere"  # so that the message says what was given


def test_a_bank_decides_the_draws(tmp_path):
    before, after = tiny(tmp_path), tiny(tmp_path, training={"steps": 4, "groups": 1, "reference_bank": 1})
    assert "training.reference_bank: was None, is 1" in refused(before, after)
