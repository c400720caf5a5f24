"""A run's own code on a network of fake tensors: what it would hold in memory at its peak, without holding it.

The trainer's loss, backward and optimizer, the encoders and the autoencoder are called as in a run. Latents, text states
and errors are real (they are small); the network and what it computes are fake. Fake tensors are of the CPU, whose fused
attention keeps no matrix of tokens by tokens, as that of CUDA does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from diffalign.backbones import Backbone
from diffalign.training.memory_ledger import GRADIENTS, MemoryLedger

Use = dict[str, int]  # kind of use -> bytes
# what CUDA's autocast works out in float32 and the CPU's does not (pytorch.org/docs/stable/amp.html), of what networks have
_WIDE = (nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Stage:
    """Where fake networks run: the fake tensors' mode, the ledger, and whether the card's rules of autocast hold."""

    mode: FakeTensorMode
    ledger: MemoryLedger
    cuda: bool

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, operations are on fake tensors and their results are entered."""
        with self.mode, self.ledger.watch():
            yield

    def fake(self, tensor: Tensor) -> Tensor:
        """Its fake twin; the real one is counted already."""
        with self.mode:
            twin = torch.empty(tensor.shape, dtype=tensor.dtype)
        self.ledger.add([twin], None)
        return twin


@contextmanager
def crossing(stage: Stage, networks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, these networks take real tensors and answer real zeros; in between they run on fake ones."""
    networks = list(networks)
    hooks = []
    for network in networks:
        vars(network)["forward"] = _Crossing(network.forward, stage)
        wide = [each for each in network.modules() if stage.cuda and isinstance(each, _WIDE)]
        hooks += [each.register_forward_pre_hook(_normalised_wide) for each in wide]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for network in networks:
            del vars(network)["forward"]


class _Crossing:
    """In the place of a network's `forward`."""

    def __init__(self, forward: Callable[..., Any], stage: Stage) -> None:
        self._forward = forward
        self.stage = stage

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        args, kwargs = tree_map(
            lambda each: self.stage.fake(each) if isinstance(each, Tensor) else each, (args, kwargs)
        )

        def call() -> Tensor:
            with self.stage.inside():
                answer: Tensor = self._forward(*args, **kwargs)[0]
            return answer

        if not torch.is_grad_enabled():
            return (self.answer(call()),)
        return (_Differentiable.apply(torch.zeros((), requires_grad=True), self, call),)

    def answer(self, fake: Tensor) -> Tensor:
        zeros = torch.zeros(fake.shape, dtype=fake.dtype)
        self.stage.ledger.add([zeros], None)  # the fake one is counted
        return zeros


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, crossing: _Crossing, call: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            ctx.answer = call()
        ctx.stage = crossing.stage
        return crossing.answer(ctx.answer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        answer, ctx.answer = ctx.answer, None
        with ctx.stage.inside():
            answer.backward(torch.empty_like(answer))
        return None, None, None


def _normalised_wide(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The inputs of a norm as CUDA's autocast takes them; the CPU's takes them as they are."""
    return tuple(map(_widened, inputs)) if torch.is_autocast_enabled("cpu") else None


def _widened(value: Any) -> Any:
    is_narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_narrow else value


def enter_parts(ledger: MemoryLedger, parts: Mapping[str, nn.Module], kind: str | None) -> None:
    """Enter the weights of modules as being of one use; None: they are elsewhere."""
    for module in parts.values():
        ledger.add([*module.parameters(), *module.buffers()], kind)


def enter_network(ledger: MemoryLedger, backbone: Backbone) -> None:
    """Enter the policy's network: what is frozen in it, what is trained, and the snapshots' adapters."""
    for name, tensor in [*backbone.network.named_parameters(), *backbone.network.named_buffers()]:
        kind = "trained weights" if tensor.requires_grad else "average" if ".lora_" in name else "frozen weights"
        ledger.add([tensor], kind)


def pack_linear_layers(stage: Stage, network: nn.Module, bytes_per_weight: float) -> Tensor:
    """Count the frozen linear layers as packed; the ledger counts what is returned, as long as it lives."""
    linear = [each for name, each in network.named_modules() if isinstance(each, nn.Linear) and ".lora_" not in name]
    weights = [each.weight for each in linear]
    stage.ledger.add(weights, None)
    with stage.mode:
        packed = torch.empty(round(bytes_per_weight * sum(each.numel() for each in weights)), dtype=torch.uint8)
    stage.ledger.add([packed], "frozen weights")
    return packed


class EightBitAdamW(torch.optim.Optimizer):
    """The memory of bitsandbytes' AdamW: two bytes for each weight of a tensor of 4096 or more, else two float32."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if not self.state[parameter]:
                dtype = torch.uint8 if parameter.numel() >= 4096 else torch.float32
                self.state[parameter] = {
                    name: torch.empty(parameter.shape, dtype=dtype) for name in ("state1", "state2")
                }


def prime(stage: Stage, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Step once, so that the optimizer holds what it keeps between steps."""
    with stage.mode:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for state in optimizer.state.values():
        stage.ledger.add([each for each in state.values() if isinstance(each, Tensor)], "optimizer")


def step_peak(
    stage: Stage,
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[], object],
    *,
    accumulates: bool,
    max_grad_norm: float,
) -> Use:
    """What is held at the peak of one optimizer step, of `backward` and of the step itself.

    Args:
        backward: forward and backward of one micro-batch.
        accumulates: whether it is not the first one: gradients are there already.
    """
    parameters = backbone.trained_parameters()
    hooks = stage.ledger.add_gradients(parameters)
    if accumulates:
        with stage.mode:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
        stage.ledger.add([parameter.grad for parameter in parameters if parameter.grad is not None], GRADIENTS)
    stage.ledger.mark()
    with stage.ledger.watch():
        backward()
    with stage.inside():
        torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
    peak = dict(stage.ledger.peak)
    optimizer.zero_grad(set_to_none=True)
    for hook in hooks:
        hook.remove()
    return peak


def peak_of(stage: Stage, call: Callable[[], object], *, fake: bool) -> Use:
    """What is held at the peak of a call without gradient."""
    stage.ledger.mark()
    with torch.no_grad(), stage.inside() if fake else nullcontext():
        call()
    return dict(stage.ledger.peak)
