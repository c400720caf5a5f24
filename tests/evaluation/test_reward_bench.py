"""Rewards against comparisons: what counts, what does not, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffalign.annotation import wilson
from diffalign.data.comparisons import OVERALL, ComparedRecord, Comparison
from diffalign.evaluation import Interval, bench_reward
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import RewardSpec, Sample, SampleReward, load_reward
from diffalign.rewards.pictures import Pixels
from tests.data.pictures import picture_file


class Brightness(SampleReward):
    """The mean, and the red part of it as a component; black pictures cannot be judged."""

    components = ("red",)
    spec = RewardSpec("bright", "1", "image", "instance", "1", (0.0, 255.0), False, "Apache-2.0", (), "here")

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        if not pixels.any():
            raise DataError("it is black")
        return float(pixels.mean()), {"red": float(pixels[..., 0].mean())}


def picture(*colour: int) -> Pixels:
    return np.full((4, 4, 3), colour, dtype=np.uint8)


def record(
    name: str, first: Pixels, second: Pixels, *, prompt: str = "", **said: tuple[float, float]
) -> ComparedRecord:
    return ComparedRecord(name, prompt or name, (first, second), (Comparison(0, 1, said),))


LIGHT, DARK, BLACK = picture(200, 200, 200), picture(10, 20, 30), picture(0, 0, 0)
FIRST, SECOND, TIE = (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)


def test_by_hand():
    records = [
        record("a", LIGHT, DARK, overall=FIRST),
        record("b", DARK, LIGHT, overall=SECOND),
        record("c", LIGHT, DARK, overall=SECOND, prompt="a"),
        record("d", LIGHT, LIGHT, overall=TIE),
        record("e", LIGHT, LIGHT, overall=FIRST),
    ]
    found = bench_reward("bright", Brightness(), records)
    assert (found.comparisons, found.ties, found.equal, found.prompts) == (5, 1, 2, 4)
    assert found.accuracy == Interval(0.5, *wilson(2 / 4, 3))  # three prompts among the four that are not tied
    assert found.accuracy_with_ties == 3 / 5 and found.tie_threshold == 0.0
    assert found.unscored == {}
    assert json.loads(json.dumps(found.as_dict()))["accuracy"]["value"] == 0.5


def test_what_is_not_scored_does_not_count():
    records = [record("a", LIGHT, DARK, overall=FIRST), record("b", BLACK, DARK, overall=SECOND)]
    found = bench_reward("bright", Brightness(), records)
    assert found.comparisons == 1 and found.unscored == {"it is black": 1}
    with pytest.raises(DataError, match="bright: no comparison has two scored pictures; the first reason: it is black"):
        bench_reward("bright", Brightness(), records[1:])


def test_a_dimension_is_judged_by_the_component_of_its_name():
    reddish, bluish = picture(200, 0, 0), picture(100, 250, 250)
    records = [record("a", reddish, bluish, red=FIRST, overall=SECOND)]
    for dimension in ("red", OVERALL):
        found = bench_reward("bright", Brightness(), records, dimension=dimension)
        assert found.accuracy is not None
        assert found.accuracy.value == 1.0
    with pytest.raises(ConfigError, match="--dimension: no comparison speaks of 'blue'; there are overall, red"):
        bench_reward("bright", Brightness(), records, dimension="blue")


def test_records_that_say_nothing_of_it_are_passed_over():
    records = [record("a", BLACK, BLACK, overall=FIRST), record("b", LIGHT, DARK, red=FIRST)]
    assert bench_reward("bright", Brightness(), records, dimension="red").comparisons == 1


def test_groups_score_each_picture_once():
    class Counting(Brightness):
        judged = 0

        def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
            self.judged += 1
            return super().judge(pixels, sample)

    shades = tuple(picture(shade, shade, shade) for shade in (250, 150, 50))
    pairs = tuple(Comparison(a, b, {OVERALL: FIRST}) for a, b in ((0, 1), (0, 2), (1, 2)))
    reward, seen = Counting(), []
    found = bench_reward(
        "bright", reward, [ComparedRecord("g", "x", shades, pairs)], batch=2, progress=lambda *at: seen.append(at)
    )
    assert reward.judged == 3 and seen == [(2, 3), (3, 3)]
    assert found.comparisons == 3 and found.accuracy is not None and found.accuracy.value == 1.0


def test_all_ties_have_no_accuracy():
    found = bench_reward("bright", Brightness(), [record("a", LIGHT, DARK, overall=TIE)])
    assert found.accuracy is None and found.accuracy_with_ties == 1.0


def test_files_and_bytes_and_prompts(tmp_path):
    """As records hold them; the scene reward needs the prompt, and says so of what it cannot read."""
    (tmp_path / "a.png").write_bytes(picture_file(0))
    records = [
        ComparedRecord("r", "a cat", (tmp_path / "a.png", picture_file(9)), (Comparison(0, 1, {OVERALL: FIRST}),))
    ]
    assert bench_reward("bright", Brightness(), records).comparisons == 1
    with pytest.raises(DataError, match="not of the scene grammar"):
        bench_reward("scene", load_reward("scene"), records)


def test_temperature_is_fitted_or_given():
    records = [
        record(str(shade), picture(shade, shade, shade), DARK, overall=(0.75, 0.25)) for shade in range(40, 200, 9)
    ]
    fitted = bench_reward("bright", Brightness(), records).calibration
    given = bench_reward("bright", Brightness(), records, temperature=1.0).calibration
    assert fitted.fitted and not given.fitted and given.temperature == 1.0
    assert fitted.loss < given.loss and fitted.error < given.error
