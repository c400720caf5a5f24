"""What one of several processes holds, worked out from what one alone does."""

from __future__ import annotations

from torch import nn

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.training.dry_run import Use
from diffalign.training.sharding import blocks_of

_IN_PIECES = ("frozen weights", "trained weights", "reference", "average", "gradients", "optimizer")


def of_one_process(uses: Use, config: RunConfig, backbone: Backbone, *, trains: bool) -> Use:
    """A stage's uses with DistributedDataParallel's buckets, or of a process that has its pieces (FSDP2) alone."""
    training = config.training
    if training.sharding == "none":
        own = sum(each.nbytes for each in backbone.trained_parameters())
        return uses | ({"gradient buckets": own} if trains else {})  # a copy of all gradients
    pieces = {name: -(-size // training.processes) if name in _IN_PIECES else size for name, size in uses.items()}
    whole = max(map(_size, blocks_of(backbone.network)), default=0)
    width = 0.5 if training.mixed_precision == "bf16" and config.model.precision == "fp32" else 1.0
    return pieces | {"gathered blocks": round(2 * whole * width)}  # one that runs and the next, on its way


def _size(block: nn.Module) -> int:
    return sum(each.nbytes for each in block.parameters())
