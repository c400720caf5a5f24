"""The page in a real browser: keys, pictures, going back, going on, several people, and text that looks like HTML."""

from __future__ import annotations

import shutil

import pytest

from diffalign.annotation import AnnotationServer, read_comparisons, read_votes
from tests.annotation.conftest import draw, drawn, make_folder
from tests.annotation.page import Page

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\"> & \u202etext"


LEFT, RIGHT, UP, DOWN, BACKSPACE, ENTER = "\ue012", "\ue014", "\ue013", "\ue015", "\ue003", "\ue007"


def test_keys_become_votes_and_the_page_goes_on(page, folder):
    first, second, third = read_comparisons(folder)
    assert page.text("prompt") == first.prompt and page.text("count") == "0 of 3"
    page.press(LEFT)
    assert page.text("prompt") == second.prompt and page.text("count") == "1 of 3"
    page.press(RIGHT)
    page.press(UP)
    assert [vote.left for vote in read_votes(folder)] == [True, False, None]
    assert [vote.comparison for vote in read_votes(folder)] == [first.id, second.id, third.id]
    assert all(0 < vote.seconds < 60 for vote in read_votes(folder))
    assert page.shown("end") and page.text("count") == "3 of 3"
    assert "3 comparisons judged" in page.text("mine")
    assert "Nobody else has voted yet." in page.text("agreement")


@pytest.mark.parametrize("keys", ["1Tb", "2t\ue015", "s"])
def test_the_other_keys(page, folder, keys):
    page.press(*keys)
    said = {"1": True, "2": False, "t": "tie", "b": "bad", DOWN: "bad", "s": "skip"}
    votes = [vote.left if vote.vote in "ab" else vote.vote for vote in read_votes(folder)]
    assert votes == [said[key.lower()] for key in keys]


def test_pictures_are_there_side_by_side_with_hard_edges(page, folder):
    sizes = page.script(
        "return ['left', 'right'].map(id => { const i = document.getElementById(id), r = i.getBoundingClientRect();"
        "return [i.naturalWidth, i.complete, r.width, r.left, r.top, getComputedStyle(i).imageRendering] })"
    )
    (_, _, width, left, top, _), (_, _, other_width, right, other_top, _) = sizes
    assert [size[:2] for size in sizes] == [[32, True], [32, True]]
    assert width == pytest.approx(other_width, abs=1) and width > 300 and left + width < right and top == other_top
    assert [size[5] for size in sizes] == ["pixelated"] * 2
    first = read_comparisons(folder)[0]
    colours = page.script(
        "return ['left', 'right'].map(id => { const c = new OffscreenCanvas(1, 1).getContext('2d');"
        "c.drawImage(document.getElementById(id), 0, 0); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3) })"
    )
    expected = [
        [number * 37 % 256, number * 91 % 256, number * 53 % 256] for number in map(int, (first.a[:6], first.b[:6]))
    ]
    assert sorted(colours) == sorted(expected)
    page.press(LEFT)
    (vote,) = read_votes(folder)
    assert colours[0] == expected[0 if vote.vote == "a" else 1]  # what was on the left is what counts


def test_large_pictures_are_smooth(browser, tmp_path, until):
    folder = make_folder(tmp_path / "large", drawn(["p"], 2))
    for number in range(2):
        draw(folder / f"{number:06d}.png", number, size=600)
    with AnnotationServer(folder) as server:
        page = Page(browser, server, until)
        page.open("anna")
        assert page.script("return getComputedStyle(document.getElementById('left')).imageRendering") == "auto"


def test_reload_and_restart_go_on(page, folder, browser, until):
    page.press(LEFT)
    page.browser.refresh()
    page.until_ready()
    assert page.text("count") == "1 of 3" and page.text("prompt") == read_comparisons(folder)[1].prompt
    page.server.close()
    with AnnotationServer(folder) as again:
        other = Page(browser, again, until)
        other.open("anna")
        assert other.text("count") == "1 of 3"
        other.press(RIGHT)
    assert [vote.left for vote in read_votes(folder)] == [True, False]


def test_back_changes_a_vote(page, folder):
    first = read_comparisons(folder)[0]
    page.press(LEFT, LEFT)
    page.press(BACKSPACE, BACKSPACE)
    assert page.text("prompt") == first.prompt
    assert page.text("said") == "You said: the left picture. Choose again to change it."
    assert page.browser.switch_to.active_element.get_attribute("id") == "keep"
    pressed = page.browser.find_elements("css selector", "[aria-pressed=true]")
    assert [button.get_attribute("data-choice") for button in pressed] == ["left"]
    page.press(RIGHT)
    assert page.text("count") == "2 of 3" and page.text("prompt") == read_comparisons(folder)[2].prompt
    assert {vote.comparison: vote.left for vote in read_votes(folder)}[first.id] is False
    assert len(page.lines()) == 3 and len(read_votes(folder)) == 2


def test_back_after_a_reload_and_keeping_what_was_said(page, folder):
    page.press("t")
    page.browser.refresh()
    page.until_ready()
    page.browser.switch_to.active_element.send_keys("u")
    page.until(lambda: "equally good" in page.text("said"))
    page.browser.switch_to.active_element.send_keys(ENTER)  # the button "Keep it" has the focus
    page.until(lambda: page.text("prompt") == read_comparisons(folder)[1].prompt)
    assert len(page.lines()) == 1


def test_buttons_and_pictures_can_be_clicked(page, folder):
    page.find("right").click()
    page.until(lambda: page.text("count") == "1 of 3")
    page.until_ready()
    page.browser.find_element("css selector", "button[data-choice=bad]").click()
    page.until(lambda: page.text("count") == "2 of 3")
    assert [vote.left if vote.vote in "ab" else vote.vote for vote in read_votes(folder)] == [False, "bad"]


def test_skipped_ones_come_again_if_asked_for(page, folder):
    page.press(LEFT, "s", RIGHT)
    page.until(lambda: "1 of them skipped" in page.text("mine"))  # what was said is asked for when all is judged
    page.find("again").click()
    page.until_ready()
    assert page.text("prompt") == read_comparisons(folder)[1].prompt
    page.press(LEFT)
    assert page.shown("end") and not page.shown("again")
    assert sorted(vote.vote in "ab" for vote in read_votes(folder)) == [True] * 3


def test_two_people_each_have_their_own(page, folder, browser):
    page.press(LEFT, LEFT, LEFT)
    browser.switch_to.new_window("tab")
    page.open("ben")
    assert page.text("count") == "0 of 3" and page.text("who") == "ben"
    page.press(RIGHT, UP)
    browser.close()
    browser.switch_to.window(browser.window_handles[0])
    browser.refresh()
    page.until_ready()
    assert page.shown("end") and page.text("who") == "anna"
    page.until(lambda: "anna and ben: the same answer on" in page.text("agreement"))
    votes = read_votes(folder)
    assert [sum(vote.rater == rater for vote in votes) for rater in ("anna", "ben")] == [3, 2]


def test_the_name_is_asked_once(page, folder):
    page.script("localStorage.clear()")
    page.open()
    page.until(lambda: page.shown("start"))
    page.browser.switch_to.active_element.send_keys("cleo b", ENTER)
    page.until_ready()
    assert page.text("who") == "cleo b"
    page.press("t")
    assert read_votes(folder)[0].rater == "cleo b"  # the t in no name is a vote
    page.open()  # no name in the address: the browser remembers
    page.until_ready()
    assert (page.text("who"), page.text("count")) == ("cleo b", "1 of 3")
    page.find("change").click()
    page.until(lambda: page.shown("start"))
    assert "cleo b (1 of 3)" in page.text("names")


def test_text_that_looks_like_html_is_text(browser, tmp_path, until):
    folder = make_folder(tmp_path / "hostile", drawn([HOSTILE], 2))
    with AnnotationServer(folder) as server:
        page = Page(browser, server, until)
        page.open("<b>anna</b>")
        assert page.find("prompt").get_property("textContent") == HOSTILE
        assert page.text("who") == "<b>anna</b>"
        assert browser.title == "Which picture is better?"
        assert page.script("return document.querySelectorAll('#prompt *, #who *').length") == 0
        page.press(LEFT)
        assert "<b>anna</b>" in page.text("people")
        assert read_votes(folder)[0].prompt == HOSTILE


def test_a_vote_that_is_not_saved_is_said_and_does_not_go_on(page, folder):
    page.expected_errors = True
    before = page.text("prompt")
    page.server.ballot.votes._file.close()
    page.browser.switch_to.active_element.send_keys(LEFT)
    page.until(lambda: page.shown("error"))
    assert page.text("error").startswith("Not saved: ") and "the vote cannot be written" in page.text("error")
    assert page.text("prompt") == before and page.text("count") == "0 of 3"
    assert read_votes(folder) == []


def test_an_end_that_cannot_be_shown_is_said(page, folder):
    """The last vote is saved, and then the server ends."""
    page.expected_errors = True
    page.press(LEFT, LEFT)
    page.script(
        "const real = window.fetch; window.fetch = (path, how) => path === '/summary' ? Promise.reject() : real(path, how)"
    )
    page.browser.switch_to.active_element.send_keys(LEFT)
    page.until(lambda: page.shown("error"))
    assert page.text("error").startswith("It did not work: there is no answer.")
    assert len(read_votes(folder)) == 3


def test_a_picture_that_is_gone_is_said(page, folder):
    page.expected_errors = True
    for path in folder.glob("*.png"):
        path.unlink()
    page.browser.get(page.server.address_for("ben"))
    page.browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    page.browser.refresh()
    page.until(lambda: page.shown("error"))
    assert "A picture cannot be shown" in page.text("error")
    page.browser.switch_to.active_element.send_keys(LEFT)  # what nobody sees nobody prefers
    page.browser.switch_to.active_element.send_keys("s")
    page.until(lambda: page.lines())
    assert [line["vote"] for line in page.lines()] == ["skip"]


def test_it_fits_a_narrow_screen(page):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.browser.refresh()
        page.until_ready()
        assert page.script("return document.documentElement.scrollWidth") == 360
        lowest = page.script("return document.getElementById('back').getBoundingClientRect().bottom")
        assert lowest <= 640  # all choices without scrolling
        small = page.script("return [...document.querySelectorAll('[data-choice], #back')].map(b => b.clientHeight)")
        assert min(small) >= 42  # for fingers
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_has_a_name(page):
    """What a screen reader is told."""
    unnamed = page.script(
        "return [...document.querySelectorAll('button, input, img, progress')].filter(element => {"
        "const label = element.labels && element.labels.length; return !(label || element.getAttribute('aria-label') ||"
        "element.alt || element.textContent.trim() || element.hidden) }).map(element => element.outerHTML)"
    )
    assert unnamed == []
    assert page.script("return document.documentElement.lang") == "en"
    assert page.find("status").get_property("textContent").startswith("Comparison 1 of 3: ")


def test_folder_may_move_between_starts(folder, tmp_path, browser, until):
    with AnnotationServer(folder) as server:
        page = Page(browser, server, until)
        page.open("anna")
        page.press(LEFT)
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    with AnnotationServer(moved) as server:
        page = Page(browser, server, until)
        page.open("anna")
        assert page.text("count") == "1 of 3"
