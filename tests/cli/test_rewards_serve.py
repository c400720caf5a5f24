"""`diffalign rewards serve`: as a real process, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from diffalign.exceptions import ConfigError
from diffalign.rewards import load_reward
from diffalign.rewards.scene import parse_caption, render_scene


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_served_scored_ended(number, monkeypatch):
    monkeypatch.setenv("TOKEN_OF_TESTS", "open sesame")
    command = [sys.executable, "-m", "diffalign", "rewards", "serve", "--port", "0", "--token-env", "TOKEN_OF_TESTS"]
    process = subprocess.Popen(
        [*command, "-r", "scene:form=graded", "-r", "jpeg"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = process.stdout.readline().strip()
    reward = load_reward("http", url=url, reward="scene", token="TOKEN_OF_TESTS")
    picture = render_scene(parse_caption("a red circle"), np.random.default_rng(0))
    scores = [each([picture], ["a red circle"]) for each in (reward, load_reward("scene", form="graded"))]
    assert scores[0].equal(scores[1])
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out == ""
    assert "serving scene, jpeg; Ctrl-C ends it" in err and "Traceback" not in err and "sesame" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-r", "jpeg", "--host", "0.0.0.0"), r"host: other machines can reach 0\.0\.0\.0, so that a token is needed"),
        (
            ("-r", "jpeg", "--token-env", "NO_SUCH_VARIABLE"),
            "--token-env: the environment variable NO_SUCH_VARIABLE",
        ),
        (("-r", "jpg"), r"reward: must be one of .*; did you mean 'jpeg'"),
        (("-r", "vendi"), "reward: vendi judges whole sets"),
        (("-r", "jpeg", "--host", "no.such.host.invalid", "--token-env", "HOME"), "host: cannot listen at"),
    ],
)
def test_refused(call, options, message):
    result = call("rewards", "serve", "--port", "0", *options)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception
