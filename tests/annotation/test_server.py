"""What the server answers, and what it refuses: other names, other origins, other files."""

from __future__ import annotations

import http.client
import json
import re
import socket
from urllib.parse import urlsplit

import pytest

from diffalign.annotation import AnnotationServer, Plan, read_comparisons, read_plan, read_votes
from diffalign.exceptions import ConfigError, DataError
from tests.annotation.conftest import draw, drawn, make_folder


@pytest.fixture
def server(folder):
    with AnnotationServer(folder) as server:
        yield server


def request(server, method, path, body=None, **headers):
    """Status, headers and content."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def session(server, rater="anna"):
    return json.loads(request(server, "GET", f"/session?rater={rater}")[2])


def send(server, said, **headers):
    status, _, content = request(server, "POST", "/vote", json.dumps(said), **{"X-Token": server.token} | headers)
    return status, json.loads(content)


def said(server, choice="left", number=0, **more):
    return {
        "comparison": session(server)["comparisons"][number]["id"], "rater": "anna", "choice": choice, "seconds": 1.5
    } | more  # fmt: skip


def test_the_page_and_its_parts_need_nothing_from_elsewhere(server):
    status, headers, page = request(server, "GET", "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert server.token.encode() in page
    for part in re.findall(rb'(?:src|href)="([^"]+)"', page):
        status, headers, content = request(server, "GET", part.decode())
        assert status == 200 and content and part.startswith(b"/")
        assert b"://" not in content and server.token.encode() not in content
    assert b"<style" not in page and not re.search(rb"<script>|\son\w+=", page)  # the policy forbids them


def test_a_session_is_blind(server, folder):
    shown = session(server)
    text = json.dumps(shown)
    assert "000001" not in text and "model" not in text and "seed" not in text
    assert [each["prompt"] for each in shown["comparisons"]] == [each.prompt for each in read_comparisons(folder)]
    for each in shown["comparisons"]:
        for side in ("left", "right"):
            status, headers, content = request(server, "GET", each[side])
            assert (status, headers["Content-Type"]) == (200, "image/png")
            assert content.startswith(b"\x89PNG")


def test_left_and_right_become_a_and_b(server, folder):
    by_id = {each.id: each for each in read_comparisons(folder)}
    for each in session(server)["comparisons"]:
        assert send(server, {"comparison": each["id"], "rater": "anna", "choice": "left", "seconds": 2})[0] == 200
        vote = read_votes(folder)[-1]
        comparison = by_id[each["id"]]
        chosen = comparison.a if vote.vote == "a" else comparison.b
        assert request(server, "GET", each["left"])[2] == (folder / chosen).read_bytes()
        assert vote.left is True and vote.order[0] == vote.vote
        assert (vote.prompt, vote.a, vote.b) == (comparison.prompt, comparison.a, comparison.b)
    assert [each["choice"] for each in session(server)["comparisons"]] == ["left"] * 3
    assert session(server, "ben")["raters"] == {"anna": 3}
    assert [each["choice"] for each in session(server, "ben")["comparisons"]] == [None] * 3


def test_a_picture_that_is_gone_is_not_named_to_the_page(server, folder, caplog):
    shown = session(server)["comparisons"][0]["left"]
    for path in folder.glob("*.png"):
        path.unlink()
    status, _, content = request(server, "GET", shown)
    assert (
        status == 404
        and b"cannot be read" in content
        and b".png" not in content
        and folder.name.encode() not in content
    )
    assert ".png: cannot be read" in caplog.text  # who started it is told


def test_other_files_are_not_there(server, folder):
    (folder / "key.json").write_text("{}")
    draw(folder / "other.png", 1)
    for path in ("/key.json", "/picture/000000.png", "/picture/../key.json", "/../out/key.json", "/picture/%2e%2e/key.json",
                 "/other.png", "/votes.jsonl", "/metadata.jsonl", "/picture/"):  # fmt: skip
        assert request(server, "GET", path)[0] == 404, path


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost:x", ""])
def test_another_name_for_this_machine_is_refused(server, folder, host):
    status, _, content = request(server, "GET", "/", Host=host)
    assert status == 403 and server.token.encode() not in content
    assert send(server, said(server), Host=host)[0] == 403
    assert read_votes(folder) == []


def test_a_tunnel_may_have_another_port(server):
    assert request(server, "GET", "/", Host="localhost:9")[0] == 200


def test_other_origins_and_tokens_are_refused(server, folder):
    assert send(server, said(server), Origin="http://evil.example")[0] == 403
    assert send(server, said(server), **{"X-Token": ""})[0] == 403
    assert send(server, said(server), **{"X-Token": "0" * 32})[0] == 403
    assert read_votes(folder) == []
    assert send(server, said(server), Origin=server.url.rstrip("/"))[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "a"}, {"choice": ["left"]}, {"choice": None}, {"rater": ""}, {"rater": "x" * 65}, {"rater": "a\nb"},
        {"rater": 3}, {"comparison": "0"}, {"seconds": -1}, {"seconds": "1"}, {"seconds": float("inf")}, {"seconds": True},
        {"seconds": 10**400}, {"seconds": float("nan")},
    ],
)  # fmt: skip
def test_what_is_no_vote_is_refused(server, folder, change):
    status, answer = send(server, said(server, **change))
    assert status == 400 and answer["error"]
    assert read_votes(folder) == []


def test_bodies_that_are_no_vote(server):
    for body in ("nonsense", "[]", "null", "\ud800".encode("utf-8", "surrogatepass"), "[" * 30_000):
        assert request(server, "POST", "/vote", body, X_Token=server.token)[0] == 400
    assert request(server, "POST", "/vote", "x" * 70_000, X_Token=server.token)[0] == 400
    assert request(server, "POST", "/elsewhere", "{}", X_Token=server.token)[0] == 404


def test_a_vote_that_cannot_be_saved_is_said(server):
    message = said(server)
    server.ballot.votes._file.close()
    status, answer = send(server, message)
    assert status == 500 and "the vote cannot be written" in answer["error"]
    assert session(server)["comparisons"][0]["choice"] is None


def test_the_summary(server):
    for rater, choice in (("anna", "left"), ("ben", "tie")):
        send(server, said(server, choice, rater=rater))
    summary = json.loads(request(server, "GET", "/summary")[2])
    assert [person["rater"] for person in summary["raters"]] == ["anna", "ben"]
    assert summary["agreement"]["pairs"] == [{"raters": ["anna", "ben"], "common": 1, "agreement": 0.0, "kappa": 0.0}]


def test_the_summary_counts_what_is_shown(folder):
    with AnnotationServer(folder) as first:
        for number in range(3):
            send(first, said(first, number=number))
    with AnnotationServer(make_folder(folder, drawn(["a red circle"], 2))) as second:
        summary = json.loads(request(second, "GET", "/summary")[2])
    assert (summary["comparisons"], summary["all"]["votes"]) == (1, 1)


def test_it_listens_on_this_machine_alone(server):
    port = urlsplit(server.url).port
    with socket.socket() as other:  # whatever else this machine is called, nobody is there
        other.bind(("127.0.0.2", port))
    assert server.url == f"http://127.0.0.1:{port}/"
    assert server.address_for("anna & ben") == f"{server.url}?rater=anna%20%26%20ben"


def test_one_server_a_folder_and_a_port(server, folder, tmp_path):
    with pytest.raises(DataError, match=re.escape(f"another diffalign annotate ({server.url}): open that address")):
        AnnotationServer(folder)
    other = make_folder(tmp_path / "other", drawn(["p"], 2))
    with pytest.raises(ConfigError, match=r"--port: \d+ cannot be used: Address already in use"):
        AnnotationServer(other, port=urlsplit(server.url).port)
    AnnotationServer(other).close()


def test_a_restart_goes_on(folder):
    with AnnotationServer(folder, Plan(seed=7)) as first:
        before = session(first)["comparisons"]
        send(first, said(first, "right"))
    assert read_plan(folder) == Plan(seed=7)
    with AnnotationServer(folder) as second:
        after = session(second)["comparisons"]
    assert [each["choice"] for each in after] == ["right", None, None]
    assert [each["id"] for each in after] == [each["id"] for each in before]
