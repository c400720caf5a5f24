"""The distributed engine: how the processes of a run start, speak with one voice, and part."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list

from diffalign.config import RunConfig
from diffalign.exceptions import ConfigError
from diffalign.objectives import get_objective
from diffalign.training.build import build_backbone, build_time
from diffalign.training.build_data import build_data
from diffalign.training.devices import check_device, choose_device
from diffalign.training.offline import OfflineTrainer

Value = TypeVar("Value")


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
    # one process draws the held-out pictures alone: a forward pass must not wait for the others' buffers
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
    if accelerator.num_processes != training.processes:
        raise ConfigError(
            f"training.processes: the config asks for {training.processes}, this run has {accelerator.num_processes}; "
            f"start it with torchrun --nproc-per-node {training.processes}, or --set training.processes="
            f"{accelerator.num_processes}"
        )
    check_device(config, accelerator.device)
    return accelerator


def build_trainer(config: RunConfig) -> OfflineTrainer:
    """A trainer with fresh weights and every part as the config says: to step by hand, in a benchmark or a test.

    Raises:
        ConfigError: device, precision, number of processes or model cannot be had here.
        DataError: the data cannot be used.
    """
    accelerator = start_accelerator(config)
    backbone = build_backbone(config, accelerator.device)
    objective = get_objective(config.objective.name)
    data, time_of = build_data(config, backbone), build_time(config, backbone)
    return OfflineTrainer(config, backbone, data, objective, time_of, accelerator)


def from_main(accelerator: Accelerator, make: Callable[[], Value]) -> Value:
    """What `make` returns in the main process, in all of them; it is called there alone."""
    made: list[Any] = [make() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(made)
    return made[0]


def part(trainer: OfflineTrainer) -> None:
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
