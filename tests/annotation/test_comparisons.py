"""Which pictures are compared: which pairs, in which order, under which names."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import pytest

from diffalign.annotation import Plan, read_comparisons, read_plan, write_plan
from diffalign.annotation.comparisons import first_side
from diffalign.exceptions import ConfigError, DataError
from tests.annotation.conftest import draw, drawn, make_folder


def test_all_pairs_of_each_prompt(tmp_path):
    folder = make_folder(tmp_path, drawn(["p", "q"], 3))
    found = read_comparisons(folder)
    expected = {
        (prompt, f"{a:06d}.png", f"{b:06d}.png")
        for prompt, first in (("p", 0), ("q", 3))
        for a, b in combinations(range(first, first + 3), 2)
    }
    assert {(each.prompt, each.a, each.b) for each in found} == expected
    assert len({each.id for each in found}) == len(found) == 6
    assert all(each.record["file_name"] == each.a for each in found)


def test_every_prompt_comes_once_before_one_comes_twice(tmp_path):
    found = read_comparisons(make_folder(tmp_path, drawn(list("pqrs"), 3)))
    assert {each.prompt for each in found[:4]} == {each.prompt for each in found[4:8]} == set("pqrs")


def test_ids_do_not_depend_on_plan_or_on_what_else_is_there(tmp_path):
    rows = drawn(["p", "q"], 3)
    before = {(each.a, each.b): each.id for each in read_comparisons(make_folder(tmp_path, rows))}
    more = [{"file_name": "first.png", "prompt": "p"}, *rows, {"file_name": "last.png", "prompt": "new"}]
    make_folder(tmp_path, more)
    for plan in (Plan(), Plan(pairs=2, seed=5)):
        after = {(each.a, each.b): each.id for each in read_comparisons(tmp_path, plan)}
        assert after.items() & before.items()
        assert all(before[key] == name for key, name in after.items() if key in before)


def test_ids_and_sides_do_not_depend_on_the_order_of_the_listing(tmp_path):
    """Folders that generate is still drawing into are listed model by model, finished ones picture by picture."""
    rows = [
        {"file_name": f"{number}-{model}.png", "prompt": "p", "seed": number, "source": model}
        for model in ("b", "a")
        for number in range(2)
    ]
    for plan in (Plan(), Plan(between="a,b")):
        first, second = (
            [(each.id, each.a, each.b, each.record) for each in read_comparisons(make_folder(tmp_path, listed), plan)]
            for listed in (rows, sorted(rows, key=lambda row: row["file_name"]))
        )
        assert first == second
        assert all(a < b and record["file_name"] == a for _, a, b, record in first)


def test_pairs_limits_each_prompt_and_more_of_them_keep_the_first(tmp_path):
    folder = make_folder(tmp_path, drawn(["p", "q"], 4))
    two, three = ([each.id for each in read_comparisons(folder, Plan(pairs=number))] for number in (2, 3))
    assert Counter(each.prompt for each in read_comparisons(folder, Plan(pairs=2))) == {"p": 2, "q": 2}
    assert set(two) < set(three) and len(three) == 6
    assert {each.id for each in read_comparisons(folder, Plan(pairs=2, seed=1))} != set(two)


def test_between_two_sources_with_the_same_seed(tmp_path):
    folder = make_folder(tmp_path, drawn(["p", "q"], 2, sources=["x", "y,z", "w"]))
    found = read_comparisons(folder, Plan(between="y,z,x"))
    names = {(each.a, each.b) for each in found}
    assert names == {(f"{number:06d}.png", f"{number + 4:06d}.png") for number in range(4)}
    with pytest.raises(ConfigError, match=r"--between: .* got 'x,v'; it has: w, x, y,z"):
        read_comparisons(folder, Plan(between="x,v"))


def test_records_of_pairs_and_groups(tmp_path):
    rows = [
        {"prompt": "p", "chosen": "0.png", "rejected": "1.png"},
        {"prompt": "p", "items": ["2.png", "3.png", "4.png"], "rewards": [1, 2, 3]},
    ]
    found = read_comparisons(make_folder(tmp_path, rows))
    names = {(each.a, each.b) for each in found}
    assert names == {("0.png", "1.png"), ("2.png", "3.png"), ("2.png", "4.png"), ("3.png", "4.png")}
    assert next(each for each in found if each.a == "0.png").record == rows[0]  # a is the chosen one


def test_a_listing_that_is_being_written(tmp_path):
    folder = make_folder(tmp_path, drawn(["p"], 2))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"id": "000002", "file_na')
    assert len(read_comparisons(folder)) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense\n", "line 3: not JSON, got 'nonsense'"),
        ('{"file_name": "2.png"}\n', "line 3: must be an object with a text 'prompt'"),
        ('{"prompt": "\\ud800", "file_name": "2.png"}\n', "line 3: must be an object with a text 'prompt'"),
        ('{"prompt": "p", "image": "2.png"}\n', "line 3: needs file_name, or chosen and rejected, or items"),
        ('{"prompt": "p", "items": "2.png"}\n', "line 3: pictures must be file names"),
        ('{"prompt": "p", "file_name": "none.png"}\n', "none.png: cannot be read: No such file"),
        ('{"prompt": "p", "file_name": "../secret.png"}\n', "lies outside of the folder"),
        ('{"prompt": "p", "file_name": "metadata.jsonl"}\n', "not a PNG, JPEG, GIF or WebP picture"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, line, says):
    folder = make_folder(tmp_path / "out", drawn(["p"], 2))
    draw(tmp_path / "secret.png", 1)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError) as caught:
        read_comparisons(folder)
    assert says in str(caught.value)


def test_a_link_to_elsewhere_is_not_followed(tmp_path):
    folder = make_folder(tmp_path / "out", drawn(["p"], 2))
    (folder / "000001.png").rename(tmp_path / "secret.png")
    (folder / "000001.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="outside"):
        read_comparisons(folder)


def test_a_run_that_waits_for_people_names_its_newest_round(tmp_path):
    for name in ("round-0000", "round-0001"):
        home = tmp_path / "rounds" / name
        home.mkdir(parents=True)
        (home / "metadata.jsonl").touch()
    (tmp_path / "rounds" / "round-0002").mkdir()  # not shown yet
    with pytest.raises(DataError, match=r"has no metadata.jsonl; give .*/rounds/round-0001$"):
        read_comparisons(tmp_path)


def test_nothing_to_compare(tmp_path):
    with pytest.raises(DataError, match=r"nowhere is no folder"):
        read_comparisons(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no metadata.jsonl"):
        read_comparisons(tmp_path)
    with pytest.raises(ConfigError, match=r"no prompt has two pictures to compare; draw more of each"):
        read_comparisons(make_folder(tmp_path, drawn(["p", "q"], 1)))


def test_a_folder_keeps_its_plan(folder):
    assert read_plan(folder) == Plan()
    write_plan(folder, Plan(pairs=1, seed=3))
    assert read_plan(folder) == Plan(pairs=1, seed=3)
    assert read_comparisons(folder) == read_comparisons(folder, Plan(pairs=1, seed=3))
    (folder / "annotation.json").write_text(json.dumps({"pears": 1}))
    with pytest.raises(DataError, match=r"annotation.json: not the plan that"):
        read_plan(folder)
    with pytest.raises(ConfigError, match="--pairs: must be at least 1, got 0"):
        Plan(pairs=0)


def test_sides_are_as_good_as_a_coin_and_stay():
    sides = [first_side(f"{number:012x}", rater, 0) for number in range(2000) for rater in ("anna", "ben")]
    assert sides == [first_side(f"{number:012x}", rater, 0) for number in range(2000) for rater in ("anna", "ben")]
    assert abs(sides.count("a") - 2000) < 4 * (4000 * 0.25) ** 0.5  # four standard deviations of a fair coin
    same = sum(one == other for one, other in zip(sides[::2], sides[1::2], strict=True))
    assert abs(same - 1000) < 4 * (2000 * 0.25) ** 0.5  # one person's sides say nothing of another's
