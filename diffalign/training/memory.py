"""How much memory a run will take, from its settings alone: a dry run of its stages on fake tensors."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode

from diffalign.backbones import Backbone
from diffalign.backbones.weightless import autoencoder_of, copies_of, load_weightless, parts_of
from diffalign.config import RunConfig
from diffalign.data import read_records
from diffalign.denoising import NoiseDraw
from diffalign.exceptions import ConfigError
from diffalign.objectives import get_objective
from diffalign.samplers import ClassifierFree
from diffalign.training.build import model_arguments
from diffalign.training.dry_run import (
    EightBitAdamW,
    Stage,
    Use,
    crossing,
    enter_network,
    enter_parts,
    pack_linear_layers,
    peak_of,
    prime,
    step_peak,
)
from diffalign.training.memory_ledger import MemoryLedger
from diffalign.training.memory_of_processes import of_one_process
from diffalign.training.micro_batch import GroupLoss, MicroBatch
from diffalign.training.optimizer import build_optimizer
from diffalign.training.processes import start_accelerator
from diffalign.types import Condition, GroupBatch
from diffalign.zoo import is_zoo, locate

Device = Literal["cuda", "cpu"]
CONTEXT_BYTES = 800_000_000  # CUDA context, cuDNN and cuBLAS workspaces: a guess, they differ by card and driver
# bytes per weight: int8 rows; nf4, its scales quantised again (Dettmers et al. 2023)
_PACKED = {"8bit": 1.0, "4bit": 0.516}
LOOSE_SHARE = 0.05  # of the tensors' peak, lost to the allocator's rounding and fragmentation: a guess too


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device.

    Attributes:
        stages: "caching", "training" and, where pictures are drawn, "drawing": use -> bytes at that stage's peak.
        latent_bytes: on disk, of the latents of one record; 0 where they come with the data.
        text_bytes: on disk, of the text states of one prompt.
        on_card: whether a card's allowance is added to what the tensors take; it is a guess.
    """

    stages: dict[str, Use]
    latent_bytes: int
    text_bytes: int
    on_card: bool

    def tensors(self, stage: str | None = None) -> int:
        """The tensors' peak in a stage; None: in the largest."""
        return max(sum(uses.values()) for name, uses in self.stages.items() if stage in (None, name))

    def needed(self, stage: str | None = None) -> int:
        """What a device must have free for a stage; None: for all."""
        tensors = self.tensors(stage)
        return tensors + CONTEXT_BYTES + round(LOOSE_SHARE * tensors) if self.on_card else tensors


class MemoryEstimator:
    """Estimates of configs that differ in a few settings; what they have in common is worked out once.

    Args:
        device: whose rules hold: "cuda" (its autocast, the optimizer's fused lists, an allowance) or "cpu".
    """

    def __init__(self, device: Device = "cuda") -> None:
        self._cuda = device == "cuda"
        self._packed: torch.Tensor | None = None
        self._model: tuple[str, Backbone, FakeTensorMode] | None = None
        self._seen: dict[str, Any] = {}

    def __call__(self, config: RunConfig) -> MemoryEstimate:
        """Of one config.

        Raises:
            ConfigError: the model's settings cannot be had, it cannot work as asked, or the records must say how many
                members a group has.
        """
        if config.online is not None:
            raise ConfigError(
                "online: the memory of an online run is not worked out in this version; training.max_batch, with two_pass "
                "for methods on denoising errors, sets how many samples it holds at a time (docs/online.md)"
            )
        # the dry run is one process on the CPU; fp16 has the sizes of bf16
        mixed = "no" if config.training.mixed_precision == "no" else "bf16"
        training = config.training.model_copy(update={"processes": 1, "mixed_precision": mixed})
        here = config.model_copy(update={"device": "cpu", "training": training})
        draws = config.samples.every is not None or config.evaluation.prompts is not None
        _, caching, latents, texts = self._once("caching", here, "model", "data")
        stages: dict[str, Use] = {"caching": caching}
        stages["training"] = self._once("training", here, *RunConfig.model_fields)
        if draws:
            stages["drawing"] = self._once("drawing", here, "model", "data", "evaluation", "samples")
        if config.training.processes > 1:
            backbone = self._backbone(here)[0]
            stages = {
                name: uses if name == "caching" else of_one_process(uses, config, backbone, trains=name == "training")
                for name, uses in stages.items()
            }
        return MemoryEstimate(stages, latents, texts, self._cuda)

    def _once(self, stage: str, config: RunConfig, *sections: str) -> Any:
        """What a stage takes, worked out anew where one of the sections that it depends on is another."""
        key = repr((stage, tuple(_views(config)), [(name, getattr(config, name)) for name in sections]))
        if key not in self._seen:
            backbone, mode = self._backbone(config)
            if stage == "caching":
                self._seen[key] = self._caching(config, backbone, mode)
            else:
                leaves = self._once("caching", config, "model", "data")[0]
                run = self._training if stage == "training" else self._drawing
                self._seen[key] = run(config, backbone, mode, leaves)
        return self._seen[key]

    def _backbone(self, config: RunConfig) -> tuple[Backbone, FakeTensorMode]:
        views = tuple(_views(config))
        key = f"{config.model.model_dump_json()} {views}"
        if self._model is None or self._model[0] != key:
            self._model = None  # two at a time are one too many
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            arguments = model_arguments(config)
            backbone = load_weightless(config.model.family, config.model.path, mode, views=views, **arguments)
            self._model = (key, backbone, mode)
        return self._model[1:]

    # ------------------------------------------------------------ stages

    def _caching(
        self, config: RunConfig, backbone: Backbone, mode: FakeTensorMode
    ) -> tuple[dict[str, torch.Tensor], Use, int, int]:
        """The text leaves of one prompt, the peak while caches are filled, and bytes on disk of a record and a prompt."""
        stage = Stage(mode, MemoryLedger(), self._cuda)
        if not self._cuda or config.model.quantise is not None:  # else it comes to the device when this is done
            stage = self._stage(config, backbone, mode)
        texts_by = {name: each for name, each in parts_of(backbone).items() if name.startswith(("text_", "image_"))}
        enter_parts(stage.ledger, texts_by, "text encoders")
        enter_parts(stage.ledger, autoencoder_of(backbone), "autoencoder")
        batch, shape = config.data.encode_batch, backbone.media_shape(config.data.resolution)
        peaks = [peak_of(stage, lambda: backbone.text([""] * 8 * batch), fake=True)]
        latents = 0
        if not str(_data_path(config)).endswith(".safetensors"):
            peaks.append(peak_of(stage, lambda: backbone.posterior(torch.empty(batch, *shape)), fake=True))
            elements = math.prod(backbone.sample_shape(config.data.resolution))
            latents = 2 * 4 * elements * (members_of(config) if config.data.kind == "groups" else 2)
            latents *= 2 if config.data.flip else 1
        with mode:
            states = backbone.text([""])  # a model that is shown pictures takes no other without a file
        leaves = {name: torch.zeros((), dtype=leaf.dtype).expand(leaf.shape[1:]) for name, leaf in states.items()}
        texts = sum(leaf.numel() * leaf.element_size() for leaf in leaves.values())
        return leaves, max(peaks, key=lambda uses: sum(uses.values())), latents, texts

    def _training(
        self, config: RunConfig, backbone: Backbone, mode: FakeTensorMode, leaves: dict[str, torch.Tensor]
    ) -> Use:
        training, settings = config.training, config.optimizer
        stage = self._stage(config, backbone, mode)
        if config.samples.every is not None:
            enter_parts(stage.ledger, autoencoder_of(backbone), "autoencoder")
        optimizer = self._optimizer(config, stage, backbone)
        with crossing(stage, [backbone.network, *copies_of(backbone).values()]):
            loss = GroupLoss(config, backbone, get_objective(config.objective.name), start_accelerator(config))
            return step_peak(
                stage,
                backbone,
                optimizer,
                lambda: loss.backward(example_batch(config, backbone, leaves), nullcontext, None),
                accumulates=training.accumulation > 1,
                max_grad_norm=settings.max_grad_norm,
            )

    def _drawing(
        self, config: RunConfig, backbone: Backbone, mode: FakeTensorMode, leaves: dict[str, torch.Tensor]
    ) -> Use:
        """One network call and the decoding of one batch; while training, with what the optimizer keeps."""
        stage = self._stage(config, backbone, mode)
        enter_parts(stage.ledger, autoencoder_of(backbone), "autoencoder")
        optimizer = None
        if config.samples.every is not None:
            optimizer = self._optimizer(config, stage, backbone)
        wanted = config.evaluation
        asked = min(wanted.batch, wanted.batch if wanted.count is None else wanted.count * wanted.members)
        rows = {name: leaf.expand(asked, *leaf.shape) for name, leaf in leaves.items()}
        view = backbone.view("policy")
        scale = config.evaluation.guidance_scale
        denoiser = view if backbone.embeds_guidance else ClassifierFree(view, scale)
        shape = (asked, *backbone.sample_shape(config.data.resolution))

        def draw() -> None:
            with crossing(stage, [backbone.network, *copies_of(backbone).values()]):
                denoiser(torch.zeros(shape), torch.full((asked,), 0.5), Condition(rows, rows))

        peaks = [peak_of(stage, draw, fake=False)]
        peaks.append(peak_of(stage, lambda: backbone.decode(torch.empty(shape)), fake=True))
        most = max(peaks, key=lambda uses: sum(uses.values()))
        # after training the base is read anew, as wide as what it made
        if optimizer is None and config.model.train == "full":
            most["reference"] = sum(each.nbytes for each in backbone.network.parameters())
        return most

    def _stage(self, config: RunConfig, backbone: Backbone, mode: FakeTensorMode) -> Stage:
        """Where all networks are that training holds."""
        stage = Stage(mode, MemoryLedger(), self._cuda)
        enter_network(stage.ledger, backbone)
        if config.model.quantise is not None:
            self._packed = pack_linear_layers(stage, backbone.network, _PACKED[config.model.quantise])
        for name, copied in copies_of(backbone).items():
            elsewhere = name == "reference" and config.model.reference.device is not None and self._cuda
            enter_parts(
                stage.ledger, {name: copied}, "average" if name == "ema" else None if elsewhere else "reference"
            )
        return stage

    def _optimizer(self, config: RunConfig, stage: Stage, backbone: Backbone) -> torch.optim.Optimizer:
        parameters = backbone.trained_parameters()
        if config.optimizer.name == "adamw8bit":  # where bitsandbytes need not be
            optimizer: torch.optim.Optimizer = EightBitAdamW(parameters)
        else:
            optimizer = build_optimizer(config.optimizer, parameters)
            for group in optimizer.param_groups:
                group["foreach"] = self._cuda  # torch's default there
        prime(stage, optimizer, parameters)
        return optimizer


def _views(config: RunConfig) -> list[str]:
    """What is held beside the policy, as the trainer holds it; a bank, once filled, takes the reference's place."""
    banked = config.training.reference_bank is not None
    return [name for name in config.held_views if name != "reference" or not banked]


def example_batch(config: RunConfig, backbone: Backbone, leaves: dict[str, torch.Tensor]) -> MicroBatch:
    """A batch of the run's shapes, with all that an objective may ask of records."""
    groups, members = config.training.groups, members_of(config)
    shape = backbone.sample_shape(config.data.resolution)
    rows = {name: leaf.expand(groups, *leaf.shape).contiguous() for name, leaf in leaves.items()}
    crops = {} if backbone.crop_leaf is None else {backbone.crop_leaf: torch.zeros(groups, members, 6)}
    low, high = config.data.reward_range or (0.0, 1.0)
    batch = GroupBatch(
        torch.zeros(groups, members, *shape),
        Condition(rows | crops, per_member=frozenset(crops)),
        torch.ones(groups, members, dtype=torch.bool),
        tuple(f"group-{number}" for number in range(groups)),
        reward=torch.linspace(high, low, members).expand(groups, members).contiguous(),
        label=torch.ones(groups, members) if config.data.kind == "labelled" else None,
        preference=torch.ones(groups),
    )
    draw = NoiseDraw(torch.full((groups, members), 0.5), torch.zeros_like(batch.x0))
    banked = config.training.reference_bank is not None
    return MicroBatch(batch, draw, torch.zeros(groups, members) if banked else None, last=True, progress=0.0)


def _data_path(config: RunConfig) -> Path:
    return locate(config.data.path) if is_zoo(config.data.path) else Path(config.data.path)


def members_of(config: RunConfig) -> int:
    """Members of a group: what the settings say, else the most that one of the first records has.

    Raises:
        ConfigError: neither says.
    """
    if config.data.kind != "groups":
        return 2 if config.data.kind == "pairs" else 1
    if config.data.members is not None:
        return config.data.members
    path = _data_path(config)
    if path.suffix == ".safetensors" and path.is_file():
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("rewards").get_shape()[1])
    try:
        records = read_records(path, "groups", columns=config.data.columns, on_bad="skip")
        return max(len(record.items) for record in islice(records, 64))
    except (OSError, ValueError):  # of no record there is no maximum either
        raise ConfigError(
            f"data.members: groups may have any number of members and no record of {config.data.path} can be read here; "
            "say how many to reckon with: --set data.members=4"
        ) from None
