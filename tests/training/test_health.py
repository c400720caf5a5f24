"""Every alarm, provoked and not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from diffalign.config.run import HealthConfig
from diffalign.exceptions import DivergenceError
from diffalign.training.health import HealthMonitor, check_finite


def monitor(**settings: Any) -> HealthMonitor:
    return HealthMonitor(HealthConfig(window=3, **settings), trained_reward="scene")


def step(winner: float = 1.0, reference: float = 1.0, loss: float = 0.6, **more: float) -> dict[str, float]:
    return {
        "loss": loss,
        "margin": 0.1,
        "winner_error": float(winner),
        "reference_winner_error": float(reference),
    } | more


def feed(watch: HealthMonitor, *rows: dict[str, float]) -> list[str]:
    return [f"{number}:{alarm.alarm}" for number, row in enumerate(rows) for alarm in watch.after_step(row)]


def figures(**means: float) -> dict[str, dict[str, float]]:
    return {name: {"mean": float(mean), "spread": 1.0, "count": 100} for name, mean in means.items()}


def test_quiet_run_is_quiet():
    watch = monitor()
    assert feed(watch, *[step()] * 10) == []
    assert watch.after_samples(figures(scene=0.1, jpeg=0.5)) == []


def test_winner_error_rising_is_a_mean_over_the_window():
    assert feed(monitor(), step(9), step(), step(), step()) == ["2:winner_error_rising"]
    assert feed(monitor(winner_error_limit=5.0), step(9), step(), step()) == []
    assert feed(monitor(), step(9), step(9)) == []  # the window is not full yet
    watch = monitor()
    (alarm,) = [alarm for row in [step(2)] * 3 for alarm in watch.after_step(row)]
    assert alarm.action == "warn"
    assert "2.00 times the reference's (limit 1.3) over the last 3 steps" in alarm.message
    assert "objective.beta" in alarm.message


def test_saturation():
    assert feed(monitor(), *[step(loss=0.01)] * 3) == ["2:saturation"]
    assert feed(monitor(saturation_limit=0.005), *[step(loss=0.01)] * 3) == []
    without_margin = {"loss": 0.001}
    assert feed(monitor(), *[without_margin] * 5) == []  # a small loss means nothing where there is no margin


def test_alarm_speaks_once_until_it_has_been_quiet():
    rows = [step(2)] * 5 + [step()] * 3 + [step(9)]
    assert feed(monitor(), *rows) == ["2:winner_error_rising", "8:winner_error_rising"]


def test_off_warn_stop():
    assert feed(monitor(winner_error_rising="off"), *[step(2)] * 3) == []
    watch = monitor(winner_error_rising="stop")
    alarms = [alarm for row in [step(2)] * 3 for alarm in watch.after_step(row)]
    assert [alarm.action for alarm in alarms] == ["stop"]


def test_two_alarms_at_once():
    assert feed(monitor(), *[step(2, loss=0.01)] * 3) == ["2:winner_error_rising", "2:saturation"]


def test_reference_error_of_zero_is_no_crash():
    assert feed(monitor(), *[step(1, reference=0)] * 3) == []


# ---------------------------------------------------------------- rewards of the samples


def test_reward_hacking():
    watch = monitor()
    assert watch.after_samples(figures(scene=0.0, jpeg=0.0)) == []
    assert watch.after_samples(figures(scene=0.5, jpeg=-0.2)) == []  # within the noise: 2 sqrt(2) / 10 = 0.28
    (alarm,) = watch.after_samples(figures(scene=0.5, jpeg=-0.3))
    assert alarm.alarm == "reward_hacking"
    assert "the held-out reward jpeg fell by 0.3 while the trained reward scene rose by 0.5" in alarm.message


@pytest.mark.parametrize("after", [figures(scene=-0.1, jpeg=-9), figures(scene=1, jpeg=9), figures(scene=0, jpeg=-9)])
def test_no_hacking_unless_one_rises_and_the_other_falls(after):
    watch = monitor()
    watch.after_samples(figures(scene=0.0, jpeg=0.0))
    assert watch.after_samples(after) == []


def test_hacking_of_several_rewards_speaks_once_each():
    watch = monitor()
    watch.after_samples(figures(scene=0, one=0, two=0))
    bad = figures(scene=1, one=-1, two=0)
    assert [len(watch.after_samples(bad)) for _ in range(3)] == [1, 0, 0]
    assert len(watch.after_samples(figures(scene=1, one=-1, two=-1))) == 1
    watch.after_samples(figures(scene=-1, one=-1, two=-1))  # quiet: the trained reward is not rising
    assert len(watch.after_samples(bad)) == 1


def test_reward_that_was_not_scored_at_first():
    watch = monitor()
    watch.after_samples(figures(scene=0))
    watch.after_samples(figures(scene=1, late=5))
    assert len(watch.after_samples(figures(scene=1, late=1))) == 1
    assert watch.after_samples({}) == []


def test_no_trained_reward_no_hacking():
    watch = HealthMonitor(HealthConfig(), trained_reward=None)
    watch.after_samples(figures(scene=0, jpeg=0))
    assert watch.after_samples(figures(scene=1, jpeg=-1)) == []


def test_state_carries_everything_over():
    """A monitor restored in the middle says what the uninterrupted one says."""
    rows = [step(1), step(1.3), step(1.5), step(2), step(1), step(0.9), step(0.9), step(9)]
    rewards = [figures(scene=0, jpeg=0), figures(scene=1, jpeg=-1), figures(scene=1, jpeg=0), figures(scene=1, jpeg=-1)]
    whole = monitor()
    expected = [whole.after_step(row) for row in rows], [whole.after_samples(row) for row in rewards]
    assert sum(map(len, expected[0])) > 1
    assert sum(map(len, expected[1])) > 1
    for cut in range(len(rows)):
        first, second = monitor(), monitor()
        said = [first.after_step(row) for row in rows[:cut]], [first.after_samples(row) for row in rewards[: cut % 4]]
        second.restore(first.state())
        after = (
            [second.after_step(row) for row in rows[cut:]],
            [second.after_samples(row) for row in rewards[cut % 4 :]],
        )
        assert (said[0] + after[0], said[1] + after[1]) == expected


# ---------------------------------------------------------------- numbers gone bad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_gone_bad_names_step_metric_and_records(value):
    check_finite(3, {"loss": 1.0}, ["a"])
    with pytest.raises(DivergenceError) as caught:
        check_finite(7, {"loss": 1.0, "margin": value}, [f"r{number}" for number in range(12)])
    message = str(caught.value)
    assert message.startswith(f"step 7: margin is {value}; records of this step: r0, r1, r2, r3, r4, r5, r6, r7, ...")
    assert "optimizer.learning_rate" in message
