"""What in the section `online` does not fit the rest of a run's settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from diffalign.config.data import DataConfig
from diffalign.config.samplers import DDIMParams, sampler_problems
from diffalign.config.time import ScheduleTime

if TYPE_CHECKING:
    from diffalign.config.online import OnlineConfig
    from diffalign.config.run import RunConfig

_OF_PICTURES = ("members", "streaming", "limit", "dimension", "buckets", "flip", "pairs_per_group", "columns", "fit")

_OF_ROUNDS = (  # settings of what is drawn for prompts and judged
    *("prompts", "members", "rewards", "weights", "combine", "same_start", "passes", "trained_steps", "skip_last"),
    *(
        "keep_rounds",
        "advantage",
        "average_decay",
        "reference_every",
        "set_reward",
        "swap_passes",
        "quality_weight",
        "preference",
    ),
)


def online_problems(config: RunConfig) -> Iterator[str]:
    """Sentences with dotted paths."""
    online = config.online
    if online is None:
        if config.data.kind == "prompts":
            yield "data.kind: 'prompts' is for a run with the section `online`; give pairs, groups or labelled records"
        if isinstance(config.time, ScheduleTime):
            yield "time.sampling: 'schedule' takes the times of online.sampler; there is no section `online`"
        return
    yield from online.problems()
    if online.sampler is not None:
        yield from sampler_problems(online.sampler, config.model.family, "online.sampler")
    if config.objective.experts:
        yield from _expert_problems(config, online)
        return
    yield from _data_problems(config)
    yield from _round_problems(config, online)
    if config.objective.on_trajectories:
        yield from _trajectory_problems(config, online)
    else:
        yield from _error_problems(config, online)


def _data_problems(config: RunConfig) -> Iterator[str]:
    data = config.data
    if data.kind != "prompts":
        yield f"data.kind: must be prompts with the section `online`, which draws pictures for them, got {data.kind!r}"
        return
    defaults = DataConfig(kind="prompts", path=data.path)
    for setting in _OF_PICTURES:
        if getattr(data, setting) != getattr(defaults, setting):
            yield f"data.{setting}: is of records with pictures, and data.kind is prompts; leave it out"
    if data.empty_prompt_share:
        yield "data.empty_prompt_share: an online run trains on the prompts that it draws for; leave it out"


def _round_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    step = config.groups_per_step
    if config.prompts_per_round % step:
        yield (
            f"online.prompts: must be a multiple of the groups of a step ({step}: training.groups x accumulation x "
            f"processes), got {online.prompts}"
        )
    if online.set_reward is not None:
        takes = {"reward", "advantage", "preference"} & set(config.objective.inputs())
        if config.objective.on_trajectories or takes or config.objective.name == "sft":
            yield "online.set_reward: makes winners and losers, for dragon and methods on pairs; leave it out, or take one"
    if online.preference == "human":
        yield from _human_problems(config, online)
    elif not online.rewards and online.set_reward is None:
        yield "online.rewards: name at least one reward that judges the pictures (diffalign list rewards)"
    if config.training.reference_bank is not None:
        yield "training.reference_bank: no picture comes twice in an online run; leave it out"
    if online.members < 2 and config.objective.name != "sft":
        yield f"online.members: {config.objective.name!r} compares pictures of one prompt; take 2 or more"
    if online.combine in ("standardised", "decoupled") and "advantage" not in config.objective.inputs():
        yield (
            f"online.combine: {online.combine} makes advantages, and {config.objective.name!r} takes none; "
            "take sum, votes or pareto"
        )
    if online.combine == "pareto" and (config.objective.layout != "pairs" or online.members != 2):
        yield "online.combine: pareto says which of two is better: for methods on pairs with online.members: 2"


def _human_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    if online.rewards or online.set_reward is not None or online.weights is not None or online.combine != "sum":
        yield "online.preference: 'human' takes the place of rewards; leave rewards, weights, set_reward and combine out"
    if config.training.processes > 1:
        yield "online.preference: 'human' is for one process; set training.processes to 1"


def _trajectory_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    name, training, sampler = config.objective.name, config.training, online.sampler
    if sampler is None:
        yield f"online.sampler: {name!r} learns from steps that add noise; take ddim with eta > 0, or flow_sde"
    elif isinstance(sampler, DDIMParams) and not sampler.eta:
        yield f"online.sampler.eta: {name!r} learns from steps that add noise; take eta > 0 (the papers have 1)"
    elif sampler.name not in ("ddim", "flow_sde"):
        yield f"online.sampler.name: {name!r} learns from steps that add noise; take ddim or flow_sde, got {sampler.name!r}"
    if config.model.lora.dropout:
        yield f"model.lora.dropout: {name!r} compares the steps that were drawn with the same network's; set it to 0"
    if training.noise.name != "gaussian":
        yield f"training.noise: {name!r} learns from the steps of sampling, which have their noise; leave it out"
    if online.draws != 1:
        yield f"online.draws: {name!r} learns from the steps of sampling, which have their times and noise; leave it out"
    if online.keep_rounds != 1:
        yield f"online.keep_rounds: {name!r} learns from the newest trajectories alone; leave it out"
    if training.two_pass:
        yield f"training.two_pass: {name!r} does so with training.max_batch; set it to false"


def _error_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    name = config.objective.name
    if online.same_start:
        yield f"online.same_start: is of methods that learn from the steps of sampling, and {name!r} does not; leave it out"
    for setting in ("trained_steps", "skip_last"):
        if getattr(online, setting):
            yield f"online.{setting}: is of methods that learn from the steps of sampling; leave it out"
    if online.draws > 1 and "baseline" in config.objective.inputs():
        yield f"online.draws: {name!r} compares with a mean over the whole batch, of one draw each; leave it out"


def _expert_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    """Of a method whose records are the good samples, and the policy's own the others."""
    name, given, defaults = config.objective.name, online, type(online)()
    if config.data.kind == "prompts":
        yield f"data.kind: {name!r} learns from good pictures; give pairs, groups (the best of each counts) or labelled"
    elsewhere = (
        "prompts",
        "members",
        "rewards",
        "weights",
        "combine",
        "same_start",
        "passes",
        "trained_steps",
        "skip_last",
    )
    for setting in (*elsewhere, "keep_rounds", "advantage", "average_decay", "reference_every"):
        if getattr(given, setting) != getattr(defaults, setting):
            yield f"online.{setting}: has no meaning for {name!r}, which draws one picture beside each record; leave it out"
    if config.training.reference_bank is not None:
        yield f"training.reference_bank: {name!r} draws anew at every step; leave it out"
    if config.training.noise.name != "gaussian":
        yield f"training.noise: {name!r} has the noise of its sampling path; leave it out"
    if config.training.two_pass:
        yield f"training.two_pass: is not for {name!r}; set it to false"
    if isinstance(config.time, ScheduleTime) or config.time != type(config).model_fields["time"].default:
        yield f"time: {name!r} takes the times of its sampling path; leave the section out"
