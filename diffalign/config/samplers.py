"""Settings of every sampler, and what can be said about one without importing torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from diffalign.config.model import FLOW_FAMILIES
from diffalign.config.params import Params


class SamplerFacts(Params):
    """The base of every sampler's settings.

    Class attributes:
        order: of convergence; the error falls by 2^order as the steps double.
        calls: of the network, a step (guidance doubles each's batch).
        noise: which of its steps are stochastic, and so have a log-probability.
        families: "any", or "flow" where only flow models fit.
        source: where it comes from.
    """

    order: ClassVar[int] = 1
    calls: ClassVar[int] = 1
    noise: ClassVar[str] = "none"
    families: ClassVar[Literal["any", "flow"]] = "any"
    source: ClassVar[str]

    steps: PositiveInt

    def problems(self, path: str) -> Iterator[str]:
        """What does not fit together, with dotted paths below `path`."""
        yield from ()


class DDIMParams(SamplerFacts):
    noise = "with eta > 0, but for a step to t = 0"
    source = "Song et al. 2020, Denoising Diffusion Implicit Models"

    name: Literal["ddim"] = "ddim"
    steps: PositiveInt = 50  # D3PO: 20 with eta 1; DDPO: 50 with eta 1
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class FlowEulerParams(SamplerFacts):
    families = "flow"
    source = "diffusers' FlowMatchEulerDiscreteScheduler"

    name: Literal["flow_euler"] = "flow_euler"
    steps: PositiveInt = 28


class FlowHeunParams(SamplerFacts):
    order = 2
    calls = 2  # one at a step to t = 0
    families = "flow"
    source = "diffusers' FlowMatchHeunDiscreteScheduler"

    name: Literal["flow_heun"] = "flow_heun"
    steps: PositiveInt = 15  # 29 calls


class DPMSolverPPParams(SamplerFacts):
    order = 2  # of its default
    source = "Lu et al. 2022, DPM-Solver++, the multistep form of order 2"

    name: Literal["dpm_solver_pp"] = "dpm_solver_pp"
    steps: PositiveInt = 20  # Diffusion-DRO; DiffusionNFT 10
    solver_order: Literal[1, 2] = 2


class WindowParams(Params):
    """Which steps have noise; the others are deterministic. By `window_first` of diffalign.samplers."""

    length: PositiveInt  # steps; MixGRPO 4 of 25, Flow-GRPO-Fast 2 or 3 of 10
    first: NonNegativeInt = 0  # number of the first of them, 0 being the one from noise; of schedule: fixed
    # fixed: always the same; else from the first step on to the last place that holds it: MixGRPO's
    schedule: Literal["fixed", "progressive", "random", "decay", "exp_decay"] = "fixed"
    every: PositiveInt = 25  # rounds at a place; MixGRPO-Flash 20, its decay 10
    shift: NonNegativeInt = 1  # steps at a time
    leave_last: NonNegativeInt = 0  # steps at the end that it never moves to; MixGRPO 2
    fewest: PositiveInt = 1  # rounds at the last place, of schedule: decay
    decay: NonNegativeFloat = 0.1  # per step behind `free`, of schedule: exp_decay
    free: NonNegativeInt = 13
    roll_back: bool = True  # to the first place after the last; false: it stays there
    outside: Literal["flow_euler", "dpm_solver_pp"] = "flow_euler"  # MixGRPO-Flash: dpm_solver_pp


class FlowSDEParams(SamplerFacts):
    noise = "all, or a window of them (form cps: but for a step to t = 0)"
    families = "flow"
    source = "Liu et al. 2025, Flow-GRPO; Xue et al. 2025, DanceGRPO; Wang & Yu 2025, CPS"

    name: Literal["flow_sde"] = "flow_sde"
    steps: PositiveInt = 10  # Flow-GRPO SD3.5 (FLUX 6, Wan 20); DanceGRPO 16; MixGRPO 25
    form: Literal["flow_grpo", "dance", "cps"] = "flow_grpo"
    eta: PositiveFloat = 0.7  # Flow-GRPO and MixGRPO; FLUX 0.9; dance 0.3, HunyuanVideo 0.25; cps 0.8
    # stands for t in 1 - t at t = 1, of form: flow_grpo; null: the second time of the schedule (UniRL trains with 0.99)
    guard: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    window: WindowParams | None = None  # null: every step has noise

    def problems(self, path: str) -> Iterator[str]:
        if self.form == "cps" and self.eta > 1:
            yield f"{path}.eta: must be <= 1 with {path}.form: cps, got {self.eta:g}"
        if self.form != "flow_grpo" and self.guard is not None:
            yield f"{path}.guard: is of form flow_grpo, and {path}.form is {self.form!r}; leave it out"
        window = self.window
        if window is None:
            return
        if window.schedule == "fixed":
            for name in ("every", "shift", "leave_last", "fewest", "decay", "free", "roll_back"):
                if getattr(window, name) != WindowParams.model_fields[name].default:
                    yield f"{path}.window.{name}: is of a window that moves, and its schedule is fixed; leave it out"
        if window.schedule != "fixed" and window.first:
            yield f"{path}.window.first: is of schedule fixed, and the schedule is {window.schedule!r}; leave it out"
        elif window.first + window.length > self.steps - window.leave_last:
            less = f", less the {window.leave_last} of leave_last" if window.leave_last else ""
            yield (
                f"{path}.window: {window.length} steps from number {window.first} on do not lie within {path}.steps "
                f"({self.steps}{less})"
            )
        elif self.form == "cps" and path.startswith("online") and self._reaches_the_end(window):
            yield (
                f"{path}.window: comes to the last step, which adds no noise with {path}.form: cps; "
                + ("end it a step earlier" if window.schedule == "fixed" else "set leave_last to 1 or more")
            )

    def _reaches_the_end(self, window: WindowParams) -> bool:
        if window.schedule == "fixed":
            return window.first + window.length == self.steps
        last = self.steps - window.length  # where a window stands that ends with the last step
        if window.leave_last or window.schedule == "random":
            return not window.leave_last
        return last % window.shift == 0 if window.shift else last == 0


SAMPLER_PARAMS: tuple[type[SamplerFacts], ...] = (
    DDIMParams,
    DPMSolverPPParams,
    FlowEulerParams,
    FlowHeunParams,
    FlowSDEParams,
)
SamplerParams = Annotated[
    DDIMParams | DPMSolverPPParams | FlowEulerParams | FlowHeunParams | FlowSDEParams, Field(discriminator="name")
]


def sampler_problems(sampler: SamplerParams, family: str, path: str) -> Iterator[str]:
    """Whether a family can be sampled so, with dotted paths below `path` (for example evaluation.sampler)."""
    if sampler.families == "flow" and family not in FLOW_FAMILIES:
        yield (
            f"{path}.name: {sampler.name!r} needs a flow model ({', '.join(FLOW_FAMILIES)}), and model.family {family!r} "
            "is none; use ddim or dpm_solver_pp"
        )
    yield from sampler.problems(path)
