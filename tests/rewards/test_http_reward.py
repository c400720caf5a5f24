"""Rewards over HTTP: a real server, a client that gets what the reward itself says, and what goes wrong between them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.rewards import HTTPReward, RewardServer, Sample, load_reward
from diffalign.rewards.http_reward import KIND
from diffalign.rewards.scene import parse_caption, render_scene
from diffalign.rewards.wire import MAGIC, pack_sample, pack_samples, read_judged
from tests.rewards.chat_server import ChatServer
from tests.rewards.troublemakers import make

CAPTIONS = ["a red circle", "two green crosses", "a blue square", "a red cross"]


def scenes() -> list[Sample]:
    pictures = [render_scene(parse_caption(text), np.random.default_rng(7)) for text in CAPTIONS[:3]]
    return [Sample(image, text, id=text) for image, text in zip([*pictures, pictures[0]], CAPTIONS, strict=True)]


@contextmanager
def serving(rewards=None, **settings) -> Iterator[RewardServer]:
    made = rewards or {"scene": load_reward("scene", form="graded"), "jpeg": load_reward("jpeg"), "trouble": make()}
    server = RewardServer(made, port=0, **settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(largest=10**6) as each:
        yield each


def client(server: RewardServer, reward: str | None = "scene", **settings) -> HTTPReward:
    return load_reward("http", url=server.url, reward=reward, **({"backoff": 0.01} | settings))


def call(server: RewardServer, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def message(**facts) -> bytes:
    plain, sample = load_reward("jpeg"), scenes()[0]
    return pack_samples([pack_sample(np.asarray(sample.media), sample, plain.spec)], **facts)


def of_no_size() -> bytes:
    """A message of an array with nothing in it, whose other side no computer counts to."""
    head = json.dumps({"facts": {}, "arrays": [{"dtype": "uint8", "shape": [0, 10**30]}]}).encode()
    return MAGIC + len(head).to_bytes(8, "little") + head


def test_scores_reasons_and_spec_are_those_of_the_served_reward(server):
    plain, reward = load_reward("scene", form="graded"), client(server, batch=3)
    batch = [*scenes(), Sample(torch.full((3, 4, 4), torch.nan), "x"), Sample(scenes()[0].media, "no such scene")]
    here, there = plain.score(batch), reward.score(batch)
    torch.testing.assert_close(there.values, here.values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(there.components, here.components, rtol=0, atol=0, equal_nan=True)
    assert there.reasons == here.reasons and here.values[:3].isfinite().all()
    assert (reward.spec.name, reward.spec.version) == ("http", f"scene-{plain.spec.version}")
    assert (reward.spec.unit, reward.spec.range, reward.spec.needs) == (plain.spec.unit, plain.spec.range, ("prompt",))
    assert client(server, "jpeg").spec.range == load_reward("jpeg").spec.range  # one bound is infinite
    torch.testing.assert_close(reward([scenes()[0].media], [CAPTIONS[0]]), plain([scenes()[0].media], [CAPTIONS[0]]))


def test_the_only_one_needs_no_name():
    with serving({"jpeg": load_reward("jpeg")}) as server:
        assert client(server, None).spec.version.startswith("jpeg-")


def test_an_error_of_the_reward_costs_its_request_alone(server, caplog):
    reward = client(server, "trouble", retries=1, batch=2)
    output = reward.score([Sample(np.full((2, 2, 3), 9, np.uint8), word) for word in ("a", "b", "raise", "c", "d")])
    assert output.values.nan_to_num(-1).tolist() == [9.0, 9.0, -1.0, -1.0, 9.0]
    assert output.reasons[2] == output.reasons[3]
    assert output.reasons[2].endswith('status 500: {"error": "troublemaker: RuntimeError: no such luck"} (2 tries)')
    assert "could not score 2 samples" in caplog.text  # with the traceback, on the server's side


def test_several_rewards_in_one_request(server):
    status, reply = call(server, "POST", "/score", message(rewards=["jpeg", "scene"]), Content_Type=KIND)
    assert status == 200
    for name in ("jpeg", "scene"):
        version, judged = read_judged(reply, name, 1)
        assert version == server.rewards[name].spec.version and judged == server.rewards[name].judge_samples(
            scenes()[:1]
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "text"),
    [
        ("GET", "/health", None, {}, 200, '"status": "ok"'),
        ("GET", "/", None, {}, 404, "there are /health, /spec and /score"),
        ("POST", "/spec", b"", {"Content_Type": KIND}, 404, "there are"),
        ("POST", "/score", b"{}", {"Content_Type": "text/plain"}, 415, f"must be of kind {KIND}"),
        ("POST", "/score", b"hello", {"Content_Type": KIND}, 400, "not a message of diffalign"),
        ("POST", "/score", of_no_size(), {"Content_Type": KIND}, 400, "an array cannot have the shape [0, 1000"),
        ("POST", "/score", message(), {"Content_Type": KIND}, 400, "rewards must be a list of names"),
        (
            "POST",
            "/score",
            message(rewards=["clip"]),
            {"Content_Type": KIND},
            404,
            "clip is not served here, but scene",
        ),
        (
            "POST",
            "/score",
            bytes(10**6 + 1),
            {"Content_Type": KIND},
            413,
            "and this one has 1000001",
        ),
        ("POST", "/score", iter([b"x"]), {"Content_Type": KIND}, 411, "must come with its Content-Length"),
    ],
)
def test_requests_and_refusals(server, method, path, body, headers, status, text):
    try:
        found = call(server, method, path, body, **headers)
    except (BrokenPipeError, ConnectionResetError):  # it may hang up before it has read what it refuses
        assert status in (413, 411)
        return
    assert found[0] == status and text in found[1].decode()
    assert "Traceback" not in found[1].decode()


def test_an_answer_that_is_none_is_a_reason(server, monkeypatch):
    reward = client(server)
    monkeypatch.setattr("diffalign.rewards.server.pack_judged", lambda *_: of_no_size())
    output = reward.score(scenes())
    assert output.values.isnan().all()
    assert all("gave an answer that cannot be read: an array cannot have the shape" in each for each in output.reasons)


def test_a_request_that_ends_before_its_end(server):
    host, port = server.server_address
    with socket.create_connection((host, port), timeout=20) as raw:
        raw.sendall(
            f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nContent-Length: 100\r\n\r\nabc".encode()
        )
        raw.shutdown(socket.SHUT_WR)
        assert b"400" in raw.recv(4096).split(b"\r\n")[0]
    assert client(server).score(scenes()).reasons == (None,) * 4  # the server goes on


def test_the_token(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_TESTS", "open sesame")
    with serving(token="open sesame") as server:
        reward = client(server, token="TOKEN_OF_TESTS")
        assert reward.score(scenes()).reasons == (None,) * 4
        with pytest.raises(ConfigError, match=r"HTTP status 401: .*; set http.token to the name of"):
            client(server)
        assert call(server, "POST", "/score", message(rewards=["jpeg"]), Content_Type=KIND)[0] == 401
        assert call(server, "GET", "/health")[0] == 200
        monkeypatch.setenv("TOKEN_OF_TESTS", "close sesame")
        reason = reward.score(scenes()).reasons[0]
        assert "HTTP status 401" in reason and "sesame" not in reason
    with pytest.raises(ConfigError, match=r"other machines can reach 0\.0\.0\.0, so that a token is needed"):
        RewardServer({"jpeg": load_reward("jpeg")}, host="0.0.0.0", port=0)


def test_more_requests_than_it_has_room_for(server):
    with serving({"trouble": make()}, waiting=1) as small, small.room():
        assert call(small, "POST", "/score", message(rewards=["trouble"]), Content_Type=KIND)[0] == 503
        timer = threading.Timer(0.3, small._room.release)
        timer.start()
        values = client(small, "trouble", retries=20, backoff=0.05).score(scenes()[:1]).values
        timer.join()
        small._room.acquire()
        assert values.isfinite().all()


def test_the_server_restarts_or_changes_or_goes():
    with serving() as first:
        reward = client(first, retries=1)
        port = first.server_address[1]
    lost = reward.score(scenes())
    assert lost.values.isnan().all() and "no connection" in lost.reasons[0] and lost.reasons[0].endswith("(2 tries)")
    again = RewardServer({"scene": load_reward("scene")}, port=port)
    threading.Thread(target=again.serve_forever, args=(0.02,), daemon=True).start()
    changed = reward.score(scenes())
    assert changed.values.isnan().all() and "serves scene of version" in changed.reasons[0]
    with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
        RewardServer({"scene": load_reward("scene")}, port=port)
    again.shutdown()
    again.server_close()


def test_retried_until_it_is_there():
    """A server that comes up while the client waits for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[RewardServer] = []

    def start() -> None:
        time.sleep(0.3)
        started.append(RewardServer({"scene": load_reward("scene")}, port=port))
        started[0].serve_forever(0.02)

    threading.Thread(target=start, daemon=True).start()
    reward = load_reward("http", url=f"http://127.0.0.1:{port}", retries=50, backoff=0.05)
    assert reward.score(scenes()).values.tolist() == [1.0, 1.0, 1.0, 0.0]
    started[0].shutdown()
    started[0].server_close()


def test_what_cannot_be_used(server):
    with pytest.raises(ConfigError, match=r"http\.reward: http://\S+ serves scene, jpeg, trouble; say which"):
        client(server, None)
    with pytest.raises(ConfigError, match=r"http\.reward: http://\S+ serves scene, jpeg, trouble, not 'clip'"):
        client(server, "clip")
    with pytest.raises(ConfigError, match=r"no connection .*; start it there: diffalign rewards serve --reward NAME"):
        load_reward("http", url="http://127.0.0.1:9", retries=0)
    with ChatServer() as other, pytest.raises(ConfigError, match="HTTP status 404"):
        load_reward("http", url=other.url)
    told = json.loads(call(server, "GET", "/spec")[1])
    assert told["rewards"]["jpeg"]["spec"]["range"] == [None, 0.0]
