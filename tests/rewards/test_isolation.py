"""Rewards in worker processes: equal to themselves, and none of what goes wrong costs more than it must."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffalign.config.rewards import JPEGParams
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import (
    IsolatedReward,
    Sample,
    build_reward,
    isolated,
    load_reward,
    reward_of_text,
    worker_process,
)
from tests.rewards.troublemakers import make

FILE = Path(__file__).with_name("troublemakers.py")
SHADES = [10, 20, 30, 40, 50, 60]


def samples(*prompts: str) -> list[Sample]:
    return [
        Sample(np.full((4, 5, 3), shade, dtype=np.uint8), prompt, id=f"s{shade}")
        for shade, prompt in zip(SHADES, prompts, strict=False)
    ]


@pytest.fixture(scope="module")
def trouble() -> Iterator[IsolatedReward]:
    reward = isolated(f"{FILE}:make", timeout=3.0)
    yield reward
    reward.close()


def worker_pids(reward: IsolatedReward) -> list[int]:
    return [worker._process.pid for worker in reward._workers if worker._process is not None]


def is_running(pid: int) -> bool:
    """A zombie is not; one whose parent has gone may stay one in a container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_scores_reasons_and_spec_are_those_of_the_reward_itself(trouble):
    batch = [*samples("a", "b", "talk", "d"), Sample(torch.full((3, 4, 4), math.nan), "x"), Sample(None, "y")]
    here, there = make().score(batch), trouble.score(batch)
    torch.testing.assert_close(there.values, here.values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(there.components, here.components, rtol=0, atol=0, equal_nan=True)
    assert there.reasons == here.reasons and here.reasons[4] is not None
    assert trouble.spec == make().spec
    assert trouble.score([]).values.shape == (0,)


def test_what_kills_it_twice_is_unscored_and_the_rest_is_not(trouble, tmp_path, caplog):
    """One batch: a crash, a hang, an error, and one that is well the second time."""
    output = trouble.score(samples("a", f"once {tmp_path / 'seen'}", "die", "raise", "e", "sleep"))
    assert output.values[[0, 1, 4]].tolist() == [10.0, 20.0, 50.0]
    assert output.values[[2, 3, 5]].isnan().all()
    assert output.reasons[0] is output.reasons[1] is output.reasons[4] is None
    killed, raised, hung = (output.reasons[place] for place in (2, 3, 5))
    assert killed.endswith("the worker process died of signal 9 (SIGKILL); the last it said: I will not")
    assert raised.endswith("the worker process met an error, RuntimeError: no such luck")
    assert "the worker process gave no answer in 3 s, and was ended" in hung
    assert "ended with exit code 3" in caplog.text and "its 6 samples are tried again, one by one" in caplog.text


@pytest.mark.slow
def test_a_start_that_dies_is_tried_again_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "_PAUSES", (0.0, 0.0))
    prompts = ["a", f"once {tmp_path / 'seen'}", "c"]
    for deaths, lost in ((2, 0), (3, 3)):
        (tmp_path / "seen").unlink(missing_ok=True)
        reward = isolated(f"{FILE}:dies_while_loading", log=str(tmp_path / f"log{deaths}"), deaths=deaths)
        output = reward.score(samples(*prompts))
        reward.close()
        assert sum(reason is not None for reason in output.reasons) == lost
        assert all("could not load the reward: it ended with exit code 9" in each for each in output.reasons if each)


def test_ctrl_c_ends_the_worker_and_leaves_nothing_half_said(trouble):
    trouble.score(samples("a"))
    (pid,) = worker_pids(trouble)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        trouble.score(samples("sleep"))
    timer.join()
    assert not is_running(pid) and worker_pids(trouble) == []
    trouble.close()  # once more does no harm


@pytest.mark.slow
def test_workers_side_by_side_keep_the_order_and_end_with_their_parent():
    """Also when the parent is killed in the middle of their work, without a word to them."""
    code = f"""
import numpy as np
from diffalign.rewards import Sample, isolated
reward = isolated({str(FILE) + ":make"!r}, workers=2)
reward._size = 2
pictures = [np.full((4, 4, 3), shade, dtype=np.uint8) for shade in range(9)]
values = reward.score([Sample(picture, "a") for picture in pictures]).values.tolist()
print(values == [float(shade) for shade in range(9)], *(worker._process.pid for worker in reward._workers), flush=True)
reward.score([Sample(picture, "sleep") for picture in pictures])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    equal, *pids = process.stdout.readline().split()
    assert equal == "True" and len(pids) == 2 and all(is_running(int(pid)) for pid in pids)
    process.kill()
    process.communicate()
    assert wait_until(lambda: not any(is_running(int(pid)) for pid in pids))


@pytest.mark.slow
def test_another_interpreter(tmp_path):
    """An environment without diffalign, whose libraries are borrowed from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (folder,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (folder / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run([python, "-P", "-c", "import diffalign.rewards"], capture_output=True, env=environment)
    assert found.returncode == 1 and b"No module named 'diffalign" in found.stderr
    reward = isolated(f"{FILE}:make", python=python, home=str(tmp_path / "venv"))
    output = reward.score(samples("a", "b"))
    reward.close()
    assert output.values.tolist() == [10.0, 20.0] and output.components["at_home"].tolist() == [1.0, 1.0]


@pytest.mark.slow
def test_the_option_of_every_reward(tmp_path):
    reward = reward_of_text("psnr:process.timeout=60,channel=rgb")
    assert isinstance(reward, IsolatedReward)
    pictures = [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8) for seed in range(3)]
    np.save(tmp_path / "x.npy", pictures[0])
    metadata = [{"reference": pictures[1]}, {"reference": str(tmp_path / "x.npy")}, {}]
    plain = load_reward("psnr", channel="rgb")
    batch = [Sample(picture, metadata=facts) for picture, facts in zip(pictures, metadata, strict=True)]
    here, there = plain.score(batch), reward.score(batch)
    assert here.reasons == there.reasons and here.reasons[0] is None and "cannot be read" in here.reasons[1]
    torch.testing.assert_close(there.values, here.values, rtol=0, atol=0, equal_nan=True)
    assert reward.spec == plain.spec
    with pytest.raises(DataError, match="the psnr reward needs a reference per picture"):
        reward(pictures)
    reward.close()


@pytest.mark.parametrize(
    ("reward", "options", "message"),
    [
        (
            f"{FILE}:leave",
            {},
            "worker process could not load the reward: it ended with exit code 7; the last it said: out of",
        ),
        (f"{FILE}:make_nothing", {}, "could not be loaded in its process: ValueError: weights are gone"),
        (f"{FILE}:make_no_reward", {}, "only rewards of single samples go into a process, got str"),
        (f"{FILE}:nobody", {}, "has no function 'nobody'"),
        ("vendi", {}, "only rewards of single samples go into a process, got VendiReward"),
        ("jpeg", {"quality": 101}, "jpeg.quality: must be <= 100, got 101"),
    ],
)
@pytest.mark.slow
def test_rewards_that_cannot_be_loaded_there(reward, options, message):
    with pytest.raises(ConfigError, match=message):
        isolated(reward, **options)


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ({"python": "/no/such/python"}, "jpeg.process.python: '/no/such/python' is no program"),
        ({"timeout": 0}, "jpeg.process.timeout: must be > 0"),
        ({"worker": 2}, "jpeg.process.worker: unknown option; did you mean 'workers'?"),
        ({"python": "/bin/true"}, "could not load the reward: it ended with exit code 0"),
    ],
)
def test_wrong_processes(process, message):
    with pytest.raises(ConfigError, match=message):
        load_reward("jpeg", process=process)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpeg:process.timeout=3,process=true", "process stands there twice, as a whole and in parts"),
        ("jpeg:process.timeout=3,process.timeout=4", "options, each once"),
        ("jpeg:quality.x=3", "jpeg.quality: must be a valid integer"),
    ],
)
def test_one_thing_told_twice(text, message):
    with pytest.raises(ConfigError, match=message):
        reward_of_text(text)


def test_false_is_no_process():
    assert type(build_reward(JPEGParams(process=False))) is type(load_reward("jpeg"))
    assert JPEGParams(process=True).process == JPEGParams(process={}).process != JPEGParams().process
