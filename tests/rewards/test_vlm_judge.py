"""A vision-language model as judge: what it is asked, how its answers are read, and what goes wrong with endpoints."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from diffalign.config.sample_rewards import VLMJudgeParams
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import Sample, VLMJudge, cached, load_reward
from diffalign.rewards.vlm_styles import STYLES, read_numbers, read_yes
from tests.rewards.chat_server import KEY, ChatServer, picture_of

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as each:
        yield each


def judge(server: ChatServer, **settings) -> VLMJudge:
    return VLMJudge(VLMJudgeParams(**({"url": server.url, "model": "judge", "backoff": 0.01} | settings)))


def samples(*prompts: str) -> list[Sample]:
    return [Sample(PIXELS, prompt, id=prompt) for prompt in prompts]


def test_scores_in_text(server):
    reward = judge(server)
    output = reward.score(samples("<good>", "<bold>", "<twice>"))
    assert output.values.tolist() == [1.0, 0.625, 0.25]
    assert output.components["answer"].tolist() == [5.0, 3.5, 2.0]
    asked = next(each for each in server.asked if "<good>" in each["messages"][0]["content"][1]["text"])
    assert asked["model"] == "judge" and asked["temperature"] == 0 and asked["max_tokens"] == 1024
    np.testing.assert_array_equal(np.asarray(picture_of(asked)), PIXELS)
    assert reward([PIXELS], ["<good>"]).tolist() == [1.0]
    with pytest.raises(DataError, match="the vlm_judge reward needs a prompt per picture"):
        reward([PIXELS])


def test_the_first_answer_is_kept(server, tmp_path):
    """Endpoints are not repeatable, and each answer is paid for."""
    reward = judge(server)
    assert not reward.spec.deterministic
    for _ in range(2):
        assert cached(reward, tmp_path).score(samples("<good>", "<twice>")).values.tolist() == [1.0, 0.25]
    assert len(server.asked) == 2


def test_unified_reward(server):
    first = judge(server, style="unified_reward", side=4).score(samples("<unified>"))
    assert first.values.tolist() == pytest.approx([(2.33 - 1) / 4]) and set(first.components) == {"answer"}
    (asked,) = server.asked
    assert picture_of(asked).size == (4, 3)
    text = asked["messages"][0]["content"][1]["text"]
    assert text.startswith("You are given a text caption") and text.endswith("Text Caption: [<unified>]")
    second = judge(server, style="unified_reward_2").score(samples("<aspects>", "<no style>"))
    assert second.values[0].item() == pytest.approx((3.5 - 1) / 4) and second.values[1].isnan()
    assert {name: values[0].item() for name, values in second.components.items()} == {
        "answer": 3.5,
        "alignment": 2.5,
        "coherence": 3.5,
        "style": 4.5,
    }
    assert "no score stands in the answer 'Alignment Score (1-5): 2.5" in second.reasons[1]


def test_probability_of_yes(server):
    reward = judge(server, style="yes_no", question="Is it <sure>?")
    output = reward.score([Sample(PIXELS)])
    assert output.values.tolist() == pytest.approx([0.8]) and output.components["mass"].tolist() == pytest.approx([1.0])
    (asked,) = server.asked
    assert asked["max_tokens"] == 1 and asked["logprobs"] is True and asked["top_logprobs"] == 20
    assert reward.spec.needs == () and reward([PIXELS]).tolist() == pytest.approx([0.8])
    output = judge(server, style="yes_no").score(samples("<only yes>", "<neither>", "<good>"))
    assert output.values[0].item() == 1.0 and output.components["mass"][0].item() == pytest.approx(0.9)
    assert output.reasons[1].endswith("first words of the answer, which are 'The', 'A'")
    assert output.reasons[2] == "the endpoint sent no log-probabilities, which yes_no needs; take style=rubric"


def test_yes_by_hand():
    tokens = [{"token": "Yes", "logprob": -1.0}, {"token": "No", "logprob": -3.0}]
    assert read_yes(tokens)[0] == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("answer", ["Score: 0.9", "Score: -3", "Score: 5.5"])
def test_out_of_the_scale(answer):
    with pytest.raises(DataError, match="a score is not from 1 to 5 in the answer 'Score: "):
        read_numbers(answer, STYLES["rubric"].pattern, (1.0, 5.0))


def test_a_rubric_of_ones_own(server):
    settings = {"question": "Say <too much> of {prompt} {x}", "pattern": r"Score: (?P<size>\d+)", "scale": (0, 90)}
    reward = judge(server, **settings)
    output = reward.score(samples("{x} a circle"))
    assert output.values.tolist() == [0.5] and output.components["size"].tolist() == [45.0]
    assert server.asked[0]["messages"][0]["content"][1]["text"] == "Say <too much> of {x} a circle {x}"
    others = [{}, {"scale": (0, 91)}, {"question": "Say <too much>", "pattern": settings["pattern"], "scale": (0, 90)}]
    versions = {judge(server, **each).spec.version for each in ({**settings}, *others, {**settings, "model": "b"})}
    assert len(versions) == 5
    assert judge(server, url="http://127.0.0.1:9", **settings).spec == reward.spec  # where it is does not matter


@pytest.mark.parametrize(
    ("case", "reason", "tries"),
    [
        ("nothing", "no score stands in the answer 'I cannot judge pictures of circles", 1),
        ("too much", "a score is not from 1 to 5 in the answer 'Score: 45'", 1),
        ("long", "no score stands in the answer 'Let me think' (cut at max_tokens, 1024)", 1),
        ("huge", "the answer has more than 4194304 bytes", 1),
        ("cut", "no connection (IncompleteRead", 2),
        ("down", "HTTP status 500: <html>oh dear</html> (2 tries)", 2),
        ("bad request", 'HTTP status 400: {"error": "no pictures; ***"}', 1),
        ("elsewhere", "HTTP status 302", 1),
        (
            "page",
            "the answer is no completion (JSONDecodeError: Expecting value: line 1 column 1 (char 0)): '<html>Wel",
            1,
        ),
        ("empty", "the answer is no completion (IndexError", 1),
        ("no text", "the answer has no text", 1),
    ],
)
def test_trouble_is_nan_with_reason_and_spares_the_rest(server, case, reason, tries, monkeypatch):
    monkeypatch.setenv("KEY_OF_TESTS", KEY)
    reward = judge(server, retries=1, api_key="KEY_OF_TESTS")
    output = reward.score([*samples("a", f"<{case}>"), Sample(PIXELS, " "), *samples("b")])
    assert output.values[[0, 3]].tolist() == [1.0, 1.0]
    assert output.values[1].isnan() and reason in output.reasons[1]
    assert output.reasons[2] == "it has no prompt, which vlm_judge needs"
    assert server.tries[case] == tries and len(output.reasons[1]) < 500


@pytest.mark.parametrize("case", ["hang", "drip"])
def test_no_answer_in_time(server, case):
    output = judge(server, retries=1, timeout=0.4).score(samples(f"<{case}>"))
    assert output.reasons[0].endswith("no answer in 0.4 s (2 tries)") and server.tries[case] == 2


def test_busy_then_well(server):
    assert judge(server).score(samples("<busy>")).values.tolist() == [1.0]
    assert server.tries["busy"] == 3


def test_nobody_is_there(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    settings = {"url": url, "model": "judge", "retries": 1, "backoff": 0.01}
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not for this machine's own addresses
    output = VLMJudge(VLMJudgeParams(**settings)).score(samples("a"))
    assert (
        output.reasons[0]
        == f"{url}/v1: no connection (ConnectionRefusedError: [Errno 111] Connection refused) (2 tries)"
    )
    with pytest.raises(ConfigError, match=r"vlm_judge.url: .* no connection .*; start the endpoint first"):
        load_reward("vlm_judge", **settings)


def test_questions_at_a_time_and_their_order(server):
    prompts = [f"<{case}>" for case in ("good", "twice", "bold", "good") * 4]
    values = judge(server, concurrency=4).score(samples(*prompts)).values.tolist()
    assert values == [1.0, 0.25, 0.625, 1.0] * 4
    assert 2 <= server.at_once <= 4


def test_the_key_is_told_to_the_endpoint_alone(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KEY_OF_TESTS", f" {KEY}\n")
    with ChatServer(key=KEY) as server:
        reward = load_reward("vlm_judge", url=f"{server.url}/v1/", model="judge", api_key="KEY_OF_TESTS")
        output = cached(reward, tmp_path).score(samples("a", "<nothing>", "<bad request>"))
        assert output.values[0].item() == 1.0
        with pytest.raises(ConfigError, match=r"vlm_judge.api_key: .* does not take it: HTTP status 401") as refused:
            monkeypatch.setenv("KEY_OF_TESTS", "sk-another")
            load_reward("vlm_judge", url=server.url, model="judge", api_key="KEY_OF_TESTS")
    said = [
        str(output),
        repr(reward.spec),
        caplog.text,
        str(refused.value),
        (tmp_path / "scores.sqlite").read_bytes().hex(),
    ]
    assert not any(secret in text for text in said for secret in (KEY, "sk-another", KEY.encode().hex()))
    monkeypatch.delenv("KEY_OF_TESTS")
    with pytest.raises(ConfigError, match=r"vlm_judge.api_key: the environment variable KEY_OF_TESTS is not set"):
        load_reward("vlm_judge", url=server.url, model="judge", api_key="KEY_OF_TESTS")


def test_a_model_that_is_not_there(server):
    with pytest.raises(ConfigError, match=r"vlm_judge.model: .* has judge, UnifiedReward, not 'gpt'"):
        load_reward("vlm_judge", url=server.url, model="gpt")
    assert load_reward("vlm_judge", url=f"{server.url}/gateway", model="gpt").spec.name == "vlm_judge"  # lists none


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "vlm_judge.model: required, but missing"),
        ({"model": "m", "style": "yes_no", "scale": [0, 1]}, "yes_no reads no number"),
        ({"model": "m", "scale": [5, 1]}, "scale must be the least and the greatest answer"),
        ({"model": "m", "pattern": "Score"}, "pattern must have a group for the number"),
        ({"model": "m", "pattern": "("}, "pattern is no regular expression"),
        ({"model": "m", "url": "localhost:8000"}, "vlm_judge.url: must be an address as http://HOST:PORT"),
        ({"model": "m", "url": "http://me:word@host"}, "vlm_judge.url: must be an address"),
        ({"model": "m", "api_key": KEY}, "vlm_judge.api_key: must be the name of an environment variable"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward("vlm_judge", **settings)
    assert KEY not in str(caught.value)
