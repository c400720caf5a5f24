"""Every alarm, provoked and not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from diffalign.config.run import HealthConfig
from diffalign.exceptions import DivergenceError
from diffalign.training import train
from diffalign.training.health import HealthMonitor, check_finite
from tests.training.tiny import rows, tiny


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
    learned = [step(loss=math.log(2))] * 3 + [step(loss=0.01)] * 3
    assert feed(monitor(), *learned) == ["5:saturation"]
    assert feed(monitor(saturation_limit=0.005), *learned) == []
    without_margin = [{"loss": 0.6}] * 3 + [{"loss": 0.001}] * 5
    assert feed(monitor(), *without_margin) == []  # a small loss means nothing where there is no margin


@pytest.mark.parametrize("scale", [4e-8, 0.015, 0.25])
def test_saturation_is_in_proportion_where_a_loss_begins_low(scale):
    """ipo in units of errors, a loss with a denoising error in it, ipo in units of margins."""
    begun = [step(loss=scale)] * 3
    assert feed(monitor(), *begun, *[step(loss=0.5 * scale)] * 5, *[step(loss=0.03 * scale)] * 5) == []
    watch = monitor()
    assert feed(watch, *begun, *[step(loss=0.028 * scale)] * 3) == ["5:saturation"]


def test_run_with_errors_of_a_millionth_is_not_learned_by_heart(home):
    """Its loss begins at (1/beta)^2."""
    objective = {"name": "ipo", "beta": 5000.0, "unit": "error"}
    folder = train(tiny(home, objective=objective, health={"window": 2}), progress=False).folder
    assert rows(folder)[0]["loss"] < 1e-6
    assert rows(folder, "alarm") == []


def test_saturation_is_not_eased_where_a_loss_begins_high():
    """simpo and cpo have no reference to begin at ln 2 with; what is learned by heart is the same for them."""
    assert feed(monitor(), *[step(loss=40.0)] * 3, *[step(loss=0.021)] * 3) == []
    assert feed(monitor(), *[step(loss=40.0)] * 3, *[step(loss=0.019)] * 3) == ["5:saturation"]


@pytest.mark.parametrize("first", [-0.5, 0.0])
def test_loss_that_is_no_logistic_one_does_not_saturate(first):
    assert feed(monitor(), *[step(loss=first)] * 3, *[step(loss=-5.0)] * 3, *[step(loss=1e-9)] * 3) == []


def test_saturation_says_small_numbers_whole():
    watch = monitor()
    alarms = [alarm for loss in [4e-8] * 3 + [1e-9] * 3 for alarm in watch.after_step(step(loss=loss))]
    assert "the loss has averaged 1e-09 over the last 3 steps (limit 1.15e-09)" in alarms[0].message


def test_alarm_speaks_once_until_it_has_been_quiet_for_a_window():
    quiet = {2: [step()] * 2, 4: [step()] * 4, 5: [step()] * 5}
    assert feed(monitor(), *[step(2)] * 50) == ["2:winner_error_rising"]
    # the mean of three steps is quiet from the third quiet step on
    assert feed(monitor(), *[step(2)] * 5, *quiet[4], step(9)) == ["2:winner_error_rising"]
    assert feed(monitor(), *[step(2)] * 5, *quiet[5], step(9)) == ["2:winner_error_rising", "10:winner_error_rising"]


def test_figure_that_wavers_around_its_limit_is_one_alarm():
    """The mean crosses the limit up and down every four steps."""
    wavering = [step(1.32), step(1.32), step(1.2), step(1.6)] * 30
    assert feed(monitor(), *wavering) == ["3:winner_error_rising"]


def test_off_warn_stop():
    assert feed(monitor(winner_error_rising="off"), *[step(2)] * 3) == []
    watch = monitor(winner_error_rising="stop")
    alarms = [alarm for row in [step(2)] * 3 for alarm in watch.after_step(row)]
    assert [alarm.action for alarm in alarms] == ["stop"]


def test_two_alarms_at_once():
    rows = [*[step()] * 3, *[step(2, loss=0.01)] * 3]
    assert feed(monitor(), *rows) == ["3:winner_error_rising", "5:saturation"]
    assert feed(monitor(winner_error_limit=1.9), *rows) == ["5:winner_error_rising", "5:saturation"]


def test_reference_error_of_zero_is_no_crash():
    assert feed(monitor(), *[step(1, reference=0)] * 3) == []


# ---------------------------------------------------------------- rewards of the samples


def test_reward_hacking():
    watch = monitor()
    assert watch.after_samples(figures(scene=0.0, jpeg=0.0)) == []
    assert watch.after_samples(figures(scene=0.5, jpeg=-0.28)) == []  # within the noise: 2 sqrt(2) / 10 = 0.283
    (alarm,) = watch.after_samples(figures(scene=0.5, jpeg=-0.3))  # and beyond it
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
    feed(watch, *[step()] * 5)
    watch.after_samples(figures(scene=-1, one=-1, two=-1))  # quiet: the trained reward is not rising
    feed(watch, *[step()] * 2)
    assert watch.after_samples(bad) == []  # not for long enough
    watch.after_samples(figures(scene=-1, one=-1, two=-1))
    feed(watch, *[step()] * 3)
    assert len(watch.after_samples(bad)) == 1


def test_reward_that_was_not_scored_at_first():
    watch = monitor()
    watch.after_samples(figures(scene=0))
    watch.after_samples(figures(scene=1, late=5))
    assert len(watch.after_samples(figures(scene=1, late=1))) == 1
    assert watch.after_samples({}) == []


def test_diversity_collapse():
    watch = monitor(diversity_limit=0.5)
    told = [watch.after_samples({}, diversity) for diversity in (0.4, 0.21, 0.19, 0.1)]
    assert [len(alarms) for alarms in told] == [0, 0, 1, 0]
    assert told[2][0].alarm == "diversity_collapse"
    assert "differ 0.47 times as much as before the first step (limit 0.5)" in told[2][0].message
    assert monitor(diversity_collapse="off").after_samples({}, 0.4) == []


@pytest.mark.parametrize("first", [0.0, None])
def test_no_diversity_no_collapse(first):
    watch = monitor()
    assert [watch.after_samples({}, each) for each in (first, first)] == [[], []]


def test_diversity_of_before_is_carried_over():
    first, second = monitor(), monitor()
    first.after_samples({}, 0.4)
    second.restore(first.state())
    assert len(second.after_samples({}, 0.2)) == 1


def test_volume_that_drifts_either_way_rings_and_stops_only_an_unbounded_loss():
    for volumes in ((0.10, 0.134, 0.136), (0.10, 0.075, 0.073)):
        watch = monitor()
        told = [watch.after_samples({}, 0.4, volume) for volume in volumes]
        assert [len(alarms) for alarms in told] == [0, 0, 1]
        assert (told[2][0].alarm, told[2][0].action) == ("volume_drift", "warn")
    unbounded = HealthMonitor(HealthConfig(), trained_reward=None, unbounded=True)
    resumed = HealthMonitor(HealthConfig(), trained_reward=None, unbounded=True)
    unbounded.after_samples({}, 0.4, 0.1)
    resumed.restore(unbounded.state())
    (alarm,) = resumed.after_samples({}, 0.4, 0.2)
    assert alarm.action == "stop" and "fill 2.00 times as much as before the first step (limit 1.35" in alarm.message
    assert [monitor().after_samples({}, 0.4, each) for each in (0.0, 0.0, None)] == [[], [], []]
    assert monitor(volume_drift="off").after_samples({}, 0.4, 9.0) == []


def test_steps_without_a_good_sample_say_nothing_of_its_error():
    """An all-toppling model has none at first; and steps that have one count alone."""
    watch = HealthMonitor(HealthConfig(window=3), trained_reward=None, unbounded=True)
    none, some = {"loss": 0.1, "bad_error": 0.2}, {"loss": 0.1, "good_error": 0.05, "bad_error": 0.2}
    assert [watch.after_step(row) for row in [none] * 4 + [none, some] * 4 + [some] * 6] == [[]] * 18
    assert [len(watch.after_step(some | {"good_error": 0.07})) for _ in range(3)] == [0, 0, 1]


def test_no_trained_reward_no_hacking():
    watch = HealthMonitor(HealthConfig(), trained_reward=None)
    watch.after_samples(figures(scene=0, jpeg=0))
    assert watch.after_samples(figures(scene=1, jpeg=-1)) == []


def test_state_carries_everything_over():
    """A monitor restored in the middle says what the uninterrupted one says."""
    bad, good, low = figures(scene=1, jpeg=-1), figures(scene=1, jpeg=0), math.log(2)
    winner = [step(each, loss=low) for each in (1, 1.3, 1.5, 2, 1, 1.5, 0.9, 0.9, 0.9, 0.9, 9)]
    learned = [step(loss=0.01)] * 3
    events = [figures(scene=0, jpeg=0), *winner[:4], bad, *winner[4:6], good, *winner[6:], bad, *learned, good, bad]

    def tell(watch: HealthMonitor, event: dict[str, Any]) -> list[str]:
        alarms = watch.after_samples(event) if "scene" in event else watch.after_step(event)
        return [alarm.message for alarm in alarms]

    whole = monitor()
    expected = [tell(whole, event) for event in events]
    spoken = [message.split()[1] for messages in expected for message in messages]
    assert spoken == ["policy's", "held-out", "policy's", "held-out", "loss"]
    for cut in range(len(events)):
        first, second = monitor(), monitor()
        said = [tell(first, event) for event in events[:cut]]
        second.restore(first.state())
        assert said + [tell(second, event) for event in events[cut:]] == expected


def test_state_of_an_older_checkpoint_is_taken():
    watch = monitor()
    watch.restore({"recent": [step(2)] * 3, "first_rewards": {}, "ringing": ["winner_error_rising"]})
    assert feed(watch, step(2)) == ["0:winner_error_rising"]


# ---------------------------------------------------------------- numbers gone bad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_gone_bad_names_step_metric_and_records(value):
    check_finite(3, {"loss": 1.0}, ["a"])
    with pytest.raises(DivergenceError) as caught:
        check_finite(7, {"loss": 1.0, "margin": value}, [f"r{number}" for number in range(12)])
    message = str(caught.value)
    assert message.startswith(f"step 7: margin is {value}; records of this step: r0, r1, r2, r3, r4, r5, r6, r7, ...")
    assert "optimizer.learning_rate" in message
