"""Prompts to pictures, with any backbone, sampler and guidance scale."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.denoising import EDM, Denoiser, LinearFlow
from diffalign.exceptions import ConfigError
from diffalign.samplers import (
    DDIM,
    Chunked,
    ClassifierFree,
    DPMSolverPP,
    FlowEuler,
    FlowHeun,
    FlowSDE,
    Sampler,
    Windowed,
    sample,
)
from diffalign.types import Condition

# name -> what makes it, and how many steps it takes unless told
SAMPLERS: dict[str, tuple[Callable[[], Sampler], int]] = {
    "ddim": (DDIM, 50),
    "dpm_solver_pp": (DPMSolverPP, 20),
    "flow_euler": (FlowEuler, 28),
    "flow_heun": (FlowHeun, 15),
    "flow_sde": (FlowSDE, 10),
}


@dataclass(frozen=True)
class ImageGenerator:
    """Draws pictures; a picture depends on its prompt and seed alone, not on the batch that it is drawn in.

    The starting noise of a seed is the one that diffusers' pipelines draw with
    `generator=[torch.Generator().manual_seed(seed), ...]`, and so are the latents, to rounding,
    where the scheduler's times are evenly spaced. DDIM here goes from each listed time to the next one; diffusers' goes
    to t - T // steps whatever the next one is. Where the two differ, so do the latents (largest measured difference on
    the zoo: 0.011 for "trailing" in 30 steps, 0.12 for "linspace" in 20).

    Attributes:
        backbone: the model.
        sampler, times: how to go from noise to data.
        guidance_scale: 1 is the conditional branch alone (one network call a step instead of two); of a
            guidance-distilled model (FLUX.1-dev) the scale that the network is told, as in diffusers' pipeline.
        batch: pictures at a time.
        resolution: pixels; None is the model's own.
    """

    backbone: Backbone
    sampler: Sampler
    times: Float[Tensor, " times"]
    guidance_scale: float = 1.0
    batch: int = 16
    resolution: int | None = None

    @classmethod
    def create(
        cls,
        backbone: Backbone,
        *,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        batch: int | None = None,
        resolution: int | None = None,
        like: ImageGenerator | None = None,
    ) -> ImageGenerator:
        """With sampler and steps by name.

        Args:
            backbone: the model.
            sampler: one of `SAMPLERS`, or a sampler; None is the family's own: flow Euler for a flow, else DDIM.
            steps: None is the sampler's own: 50 for DDIM, 28 for flow Euler, 20 for DPM-Solver++, 15 for Heun, 10 for
                the flow's stochastic steps.
            eta: noise of DDIM, in [0, 1] (None is 0), or of the flow's stochastic steps (None is 0.7).
            guidance_scale: None is 1, the conditional branch alone (or a guidance-distilled network told 1).
            batch: pictures at a time; None is 16.
            resolution: pixels along a side; None is the model's own.
            like: another generator, whose settings are taken in the place of these for all that is None.

        Raises:
            ConfigError: the model cannot be sampled so; names the argument.
        """
        chosen = _sampler_of(backbone, sampler, eta, None if like is None else like.sampler)
        if batch is not None and batch < 1:
            raise ConfigError(f"batch: must be at least 1, got {batch}")
        if resolution is None and like is not None:
            resolution = like.resolution
        try:
            backbone.checked_resolution(resolution)
        except ConfigError as error:
            raise ConfigError(f"resolution: {str(error).removeprefix('data.resolution: ')}") from None
        if steps is None:
            steps = _steps_of(chosen) if like is None else len(like.times) - 1
        times = backbone.times(steps, resolution)
        return cls(
            backbone,
            DPMSolverPP.for_times(times, chosen.order) if isinstance(chosen, DPMSolverPP) else chosen,
            times,
            (1.0 if like is None else like.guidance_scale) if guidance_scale is None else guidance_scale,
            (16 if like is None else like.batch) if batch is None else batch,
            resolution,
        )

    def latents(
        self, prompts: Sequence[str], seeds: Sequence[int], *, view: str = "policy"
    ) -> Iterator[Float[Tensor, "batch *sample"]]:
        """x0 of every prompt, a batch at a time.

        Raises:
            ConfigError: one text in the place of a list.
            ValueError: not as many seeds as prompts.
        """
        check_texts(prompts)
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one seed per prompt")
        denoiser = self.denoiser(view)
        for start in range(0, len(prompts), self.batch):
            chunk = list(prompts[start : start + self.batch])
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + self.batch]]
            condition, x_init = self.condition(chunk), self.noise(generators)[:, 0]
            yield sample(denoiser, self.sampler, condition, x_init, self.times, generators=generators)

    def decode_from(
        self,
        noise: Float[Tensor, "batch *sample"],
        condition: Condition,
        draws: torch.Generator,
        *,
        view: str = "policy",
    ) -> Float[Tensor, "batch *medium"]:
        """What comes of this starting noise, on the CPU; `draws` is of the steps that add noise."""
        found = sample(self.denoiser(view), self.sampler, condition, noise, self.times, generators=[draws] * len(noise))
        return self.backbone.decode(found).cpu()

    def denoiser(self, view: str) -> Denoiser:
        """What a step asks: the view, guided, at most `batch` samples at a time."""
        network = self.backbone.view(view)
        guided = network if self.backbone.embeds_guidance else ClassifierFree(network, self.guidance_scale)
        return Chunked(guided, self.batch)

    def condition(self, prompts: Sequence[str]) -> Condition:
        """What `denoiser` is told of prompts."""
        return self.backbone.condition(prompts, guidance=self.guidance_scale if self.backbone.embeds_guidance else None)

    def noise(self, generators: Sequence[torch.Generator], members: int = 1) -> Float[Tensor, "groups members *sample"]:
        """Where sampling starts, `members` times from each generator."""
        shape, process = self.backbone.sample_shape(self.resolution), self.backbone.process
        scale = process.sigma_max if isinstance(process, EDM) else 1.0
        drawn = [torch.randn((members, *shape), generator=each) for each in generators]
        return scale * torch.stack(drawn).to(self.backbone.device)

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], *, view: str = "policy"
    ) -> Iterator[Float[Tensor, "batch *medium"]]:
        """Pictures in [0, 1], on the CPU, a batch at a time."""
        for latents in self.latents(prompts, seeds, view=view):
            yield self.backbone.decode(latents).cpu()


def check_texts(prompts: Sequence[str]) -> None:
    """Refuse one text in the place of several: its letters would be drawn.

    Raises:
        ConfigError: it is one.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts: give a list of texts, got the one text {prompts!r:.80}")


def name_of(sampler: Sampler) -> str:
    """Its name in `SAMPLERS`, or else its class; a sampler with a window goes by what is inside it."""
    if isinstance(sampler, Windowed):
        return name_of(sampler.inside)
    kind = type(sampler)
    return next((name for name, (make, _) in SAMPLERS.items() if kind is make), kind.__name__)


def _steps_of(sampler: Sampler) -> int:
    name = name_of(sampler)
    if name not in SAMPLERS:
        raise ConfigError(f"steps: say how many; {name} has no number of its own")
    return SAMPLERS[name][1]


def _sampler_of(backbone: Backbone, wish: str | Sampler | None, eta: float | None, own: Sampler | None) -> Sampler:
    """The sampler that is wished for, or the generator's own, or the family's; with `eta` if it is given."""
    flow = isinstance(backbone.process, LinearFlow)
    chosen: Sampler = own if own is not None else FlowEuler() if flow else DDIM()
    if isinstance(wish, str):
        if wish not in SAMPLERS:
            close = difflib.get_close_matches(wish, SAMPLERS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"sampler: must be one of {', '.join(SAMPLERS)}, got {wish!r}{hint}")
        chosen = chosen if name_of(chosen) == wish else SAMPLERS[wish][0]()
    elif wish is not None:
        chosen = wish
    name = name_of(chosen)
    if name.startswith("flow_") and not flow:
        raise ConfigError(f"sampler: {name} needs a flow model, and this one is none; use ddim or dpm_solver_pp")
    return chosen if eta is None else _with_eta(chosen, eta)


def _with_eta(sampler: Sampler, eta: float) -> Sampler:
    if isinstance(sampler, Windowed):
        return replace(sampler, inside=_with_eta(sampler.inside, eta))
    if isinstance(sampler, FlowSDE):
        return replace(sampler, eta=eta)
    if not isinstance(sampler, DDIM):
        raise ConfigError(
            f"eta: is a setting of the samplers ddim and flow_sde, and this is {name_of(sampler)}; leave it out, or choose "
            "one of them"
        )
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta: must be from 0 to 1, got {eta}")
    return DDIM(eta)
