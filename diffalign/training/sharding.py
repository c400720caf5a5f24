"""FSDP2 for a network: every block's weights in pieces, one on each process, and put together while the block runs.

Raw `torch.distributed.fsdp.fully_shard` over accelerate's processes: accelerate's own FSDP leaves a CPU's networks whole.
The order is torchtitan's: gradient checkpointing first, then the blocks, then the root; the optimizer is made of pieces. A
piece is a `DTensor`, cut along its first dimension as `torch.chunk` does. A network that has no gradient (the reference of
full fine-tuning) is cut the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.exceptions import ConfigError

# from this torch on, a block may hold float32 LoRA weights beside frozen ones of another precision
_MIXED_GROUPS = (2, 9)


def shards(config: RunConfig, accelerator: Accelerator) -> bool:
    """Whether this run's networks are in pieces: FSDP2 was asked for, and there is more than one process."""
    return config.training.sharding == "fsdp2" and accelerator.num_processes > 1


def check_sharding(config: RunConfig) -> None:
    """Whether the torch that is installed can shard what the config trains.

    Raises:
        ConfigError: it is too old.
    """
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    mixed = config.model.train == "lora" and config.model.precision != "fp32"
    if config.training.sharding == "fsdp2" and mixed and release < _MIXED_GROUPS:
        wanted = ".".join(map(str, _MIXED_GROUPS))
        raise ConfigError(
            f"training.sharding: 'fsdp2' takes LoRA weights (float32) beside model.precision: {config.model.precision} "
            f"with torch {wanted} or newer, and this is {torch.__version__}; set model.precision: fp32, or update torch"
        )


def hold_views(config: RunConfig, backbone: Backbone) -> None:
    """Make room for the networks that the method compares with, and for no other."""
    for name in config.held_views:
        backbone.hold(name)


def shard_backbone(config: RunConfig, backbone: Backbone, accelerator: Accelerator) -> None:
    """Cut the network that is trained, and those that are kept beside it, into pieces; an optimizer is made afterwards."""
    hold_views(config, backbone)
    shard = _sharder(config, accelerator)

    def wrap(network: nn.Module) -> nn.Module:  # with accelerate's autocast, and no DDP
        return shard(accelerator.prepare_model(network, device_placement=False, evaluation_mode=True))

    backbone.prepare(wrap)
    for network in backbone.kept_networks():
        shard(network)


def _sharder(config: RunConfig, accelerator: Accelerator) -> Callable[[nn.Module], nn.Module]:
    """What cuts a network into pieces, in place; it ends up on the process's own device, a block at a time."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    # inputs are not cast: times must stay float32, and autocast takes care of the rest
    half = {"no": None, "bf16": torch.bfloat16}[config.training.mixed_precision]
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
    )

    def shard(network: nn.Module) -> nn.Module:
        for block in reversed(blocks_of(network)):  # those inside others first
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        # the root too: after a forward without gradient its weights would stay whole, and a change of them be lost
        fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        return network

    return shard


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """What is gathered and let go of as one: the classes that diffusers keeps on one device, else members of its lists."""
    names = set(getattr(network, "_no_split_modules", None) or ())
    blocks = [module for module in network.modules() if type(module).__name__ in names]
    if blocks:
        return blocks
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    return [block for members in lists for block in members if any(True for _ in block.parameters())]


@contextmanager
def gradient_sync(accelerator: Accelerator, wrapped: nn.Module, *, now: bool, in_pieces: bool) -> Iterator[None]:
    """Inside, a backward takes the mean of the gradients over the processes, or leaves that to a later one.

    Of a network in pieces, a backward that leaves it keeps whole gradients; with `in_pieces` none does.
    """
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(now or in_pieces)
        yield
    elif now:
        yield
    else:
        with accelerator.no_sync(wrapped):
            yield


# ---------------------------------------------------------------- pieces and whole tensors


def whole(tensor: Tensor) -> Tensor:
    """The tensor that a piece is of; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The whole tensors of a state on the CPU, in the process that keeps them; nothing in the others.

    All processes must ask for it. No process holds more than one whole tensor that it does not keep.
    """
    found = {}
    for name, tensor in state.items():
        entire = whole(tensor.detach())
        if keep:
            found[name] = entire.cpu()
    return found


def rows_of(tensor: DTensor) -> tuple[int, int]:
    """First and last row (not included) of this process's piece."""
    assert tensor.placements == (Shard(0),), f"sharded as {tensor.placements}"
    size = -(-tensor.shape[0] // tensor.device_mesh.size())
    first = min(tensor.device_mesh.get_local_rank() * size, tensor.shape[0])
    return first, min(first + size, tensor.shape[0])
