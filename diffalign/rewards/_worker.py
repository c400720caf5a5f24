"""The worker process of an isolated reward: it loads the reward, and judges what comes until its parent hangs up.

It talks over the socket that it finds as its standard input. Messages are those of `wire`, each after its length.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffalign.exceptions import ConfigError
from diffalign.rewards import load_reward
from diffalign.rewards.frames import receive, send
from diffalign.rewards.protocol import BatchReward
from diffalign.rewards.wire import pack, pack_judged, read_samples, spec_facts, unpack

_WATCH = 1.0  # seconds between looks whether the parent is still there


def main(parent: int) -> None:
    """Work for the process of this number."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a library that asks a question gets no answer, and reads no message of ours
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        reward = _load(unpack(receive(channel))[0])
        send(channel, pack(spec_facts(reward)))
    except EOFError:
        return
    except Exception as error:
        traceback.print_exc()
        send(channel, _told(error))
        return
    while True:
        try:
            message = receive(channel)
        except (EOFError, ConnectionError):
            return
        try:
            _, samples = read_samples(message)
            judged = reward.judge_samples(samples)
            reply = pack_judged({"": judged}, {"": reward})
        except Exception as error:  # the parent asks again, one by one
            traceback.print_exc()
            reply = _told(error)
        try:
            send(channel, reply)
        except ConnectionError:
            return


def _told(error: Exception) -> bytes:
    return pack({"error": {"kind": type(error).__name__, "text": str(error)[:2000]}})


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def _load(order: Mapping[str, Any]) -> BatchReward:
    name, options = order["reward"], order["options"]
    file, sign, function = name.rpartition(":")
    reward = _function(Path(file), function)(**options) if sign else load_reward(name, **options)
    if not isinstance(reward, BatchReward):
        raise ConfigError(f"{name}: only rewards of single samples go into a process, got {type(reward).__name__}")
    return reward


def _function(file: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ConfigError(f"{file}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    if not callable(vars(module).get(name)):
        raise ConfigError(f"{file}: has no function {name!r}")
    return vars(module)[name]
