"""The distributed engine: how the processes of a run start, speak with one voice, and part."""

from __future__ import annotations

import gc
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import distributed, nn

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.exceptions import ConfigError, DiffalignError, ProcessLostError
from diffalign.training.batch_split import split_advice
from diffalign.training.build import build_backbone
from diffalign.training.devices import check_device, choose_device
from diffalign.training.sharding import check_sharding, shard_backbone, shards
from diffalign.training.trainer import Trainer

# of gloo, where the other end of a connection is gone; NCCL raises torch's own DistError
_GONE = re.compile(r"gloo|Connection (closed|reset)|Broken pipe|remote worker")


def start_accelerator(config: RunConfig) -> Accelerator:
    """The distributed engine, for the device, precision and number of processes that the config asks for.

    Raises:
        ConfigError: device, precision or number of processes cannot be had here.
    """
    training, device = config.training, choose_device(config)
    if AcceleratorState._shared_state.get("_mixed_precision", training.mixed_precision) != training.mixed_precision:
        AcceleratorState._reset_state()  # an earlier run in this process had another precision
    earlier = PartialState._shared_state
    if earlier and earlier["num_processes"] == 1 and earlier["device"].type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)  # or another device
    # the held-out pictures are drawn by all, each its own number: a forward pass must not wait for the others' buffers
    alone = DistributedDataParallelKwargs(broadcast_buffers=False)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))  # while one encodes what another run left, or draws
    try:
        accelerator = Accelerator(
            mixed_precision=training.mixed_precision, cpu=device.type == "cpu", kwargs_handlers=[alone, patience]
        )
    except ValueError as error:
        raise ConfigError(
            f"training.mixed_precision: {training.mixed_precision!r} cannot be used here: {error}"
        ) from None
    with one_voice(accelerator, ["start it again"]):
        _check_start(config, accelerator)
    return accelerator


def _check_start(config: RunConfig, accelerator: Accelerator) -> None:
    training = config.training
    if accelerator.num_processes != training.processes:
        raise ConfigError(
            f"training.processes: the config asks for {training.processes}, this run has {accelerator.num_processes}; "
            f"start it with torchrun --nproc-per-node {training.processes}, or, for {config.groups_per_step} groups a step "
            f"as before, {split_advice(config, accelerator.num_processes)}"
        )
    check_device(config, accelerator.device)


def start_backbone(config: RunConfig, accelerator: Accelerator, *, network_waits: bool = False) -> Backbone:
    """The model, in pieces where `training.sharding` asks for it: then no device ever holds the whole network.

    `network_waits` is as in `load_backbone`, of a network that is not in pieces.

    Raises:
        ConfigError: there is no such model, or torch is too old to cut it.
    """
    check_sharding(config)
    if not shards(config, accelerator):
        return build_backbone(config, accelerator.device, network_waits=network_waits)
    backbone = build_backbone(config, torch.device("cpu"))
    shard_backbone(config, backbone, accelerator)
    for part in backbone.pipeline.components.values():
        if isinstance(part, nn.Module) and part is not backbone.network:
            part.to(accelerator.device)
    return backbone


def part(trainer: Trainer) -> None:
    """Go on as a process of its own, with the network as it was loaded: one draws and compares while the others end.

    Torch's distributed threads abort a process that ends before them ("terminate called without an active exception"), and
    they end when the wrapped network is gone and the process group is destroyed.
    """
    backbone = trainer.backbone
    backbone.prepare(lambda module: module)
    # accelerate laid its own forward, which casts, over the class's; its unwrap_model would strip diffusers' decorator too
    for name in ("forward", "_original_forward"):
        vars(backbone.network).pop(name, None)
    accelerator = trainer.accelerator
    several = accelerator.num_processes > 1
    accelerator.free_memory()
    if several:
        gc.collect()  # the wrapper and its reducer refer to each other
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)


# ------------------------------------------------------------ the end of one process is the end of all


@contextmanager
def one_voice(accelerator: Accelerator, advice: list[str]) -> Iterator[None]:
    """Inside, an error ends all processes, and one of them says why.

    The others' errors are marked `spoken_for`. Whoever waits for a process that has ended learns it from the broken
    connection, and gets a `ProcessLostError` in its place.

    Args:
        advice: its last entry is how to go on, by the time that something goes wrong.

    Raises:
        ProcessLostError: another process of this run has ended.
    """
    if accelerator.num_processes == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        gone = isinstance(error, distributed.DistError) or bool(_GONE.search(str(error)))
        if isinstance(error, DiffalignError) or not (isinstance(error, RuntimeError) and gone):
            speak_once(error)
            _leave()
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's: this process ends by itself, and says why
        lost = ProcessLostError(
            "another process of this run has ended, so this one cannot go on (the launcher's own report names it and its "
            f"exit code); {advice[-1]}"
        )
        speak_once(lost)
        _leave()
        raise lost from None


def speak_once(error: Exception) -> None:
    """Mark an error that ends the run as `spoken_for` in all processes but the first that comes here with one."""
    if not distributed.is_initialized():  # one process, or after `part`: the main one is on its own
        return
    with suppress(RuntimeError):  # the store is gone with the process that held it: better said twice than not at all
        store = distributed.distributed_c10d._get_default_store()
        error.spoken_for = store.add("diffalign: last words", 1) > 1  # type: ignore[attr-defined]


def _leave() -> None:
    """Leave the others without waiting for them, so that torch's threads end before the process does."""
    if distributed.is_initialized() and distributed.get_backend() == "gloo":  # NCCL would wait
        with suppress(RuntimeError):
            distributed.destroy_process_group()
