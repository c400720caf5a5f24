"""What in the section `online` does not fit the rest of a run's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from diffalign.config.params import Params
from diffalign.config.sample_rewards import medium_problems
from diffalign.config.samplers import DDIMParams, FlowSDEParams, sampler_problems
from diffalign.config.time import ScheduleTime

if TYPE_CHECKING:
    from diffalign.config.online import OnlineConfig
    from diffalign.config.run import RunConfig

_OF_RECORDS = (  # settings of the section `data` for records
    *("members", "streaming", "limit", "dimension", "buckets", "flip", "pairs_per_group", "columns", "fit", "on_bad"),
    *("split", "config_name"),
)
# of the section `online`, what a method on experts takes; all else is of rounds, which are drawn for prompts and judged
_OF_EXPERTS = {"sampler", "guidance_scale", "draws", "policy_sync_every", "policy_decay", "branch_norms"}
# settings of rewards that judge, and how a command takes away what a file says of them
_OF_REWARDS = {"rewards": "[]", "weights": "null", "set_reward": "null", "combine": "sum"}


def _given(section: Params, names: Iterable[str]) -> Iterator[str]:
    """Which of these settings are not what they are by themselves."""
    for name in names:
        if getattr(section, name) != type(section).model_fields[name].default:
            yield name


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
    named = config.evaluation.trained_reward
    if named is not None and named not in config.trained_on:
        judges = "people do" if online.preference == "human" else ", ".join(config.trained_on) or "nobody does"
        yield f"evaluation.trained_reward: {named!r} does not judge in this run ({judges}); leave it out (=null)"
    yield from medium_problems("online.rewards", online.rewards, config.model.draws)
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
    for setting in _given(data, _OF_RECORDS):
        yield f"data.{setting}: is of records, and data.kind is prompts; leave it out"
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
            yield (
                "online.set_reward: makes winners and losers, for dragon and methods on pairs that take neither "
                "preferences nor trajectories, such as diffusion_dpo; leave it out, or take one of these"
            )
        if online.members != 2:
            yield f"online.members: with online.set_reward the winner is one of two, got {online.members}; set it to 2"
        if config.training.pair_weight is not None:
            yield "training.pair_weight: weighs by rewards, and online.set_reward chooses the winners; leave it out"
    if online.preference == "human":
        yield from _human_problems(config, online)
    elif not online.rewards and online.set_reward is None:
        yield "online.rewards: name at least one reward that judges the pictures (diffalign list rewards)"
    if config.training.reference_bank is not None:
        yield "training.reference_bank: no picture comes twice in an online run; leave it out"
    if online.members < 2 and config.objective.name != "sft":
        yield f"online.members: {config.objective.name!r} compares pictures of one prompt; take 2 or more"
    if online.good_from is not None:
        if "label" not in (*config.objective.inputs(), *config.objective.optional):
            yield f"online.good_from: {config.objective.name!r} takes no labels; leave it out"
        if online.preference == "human" or online.set_reward is not None:
            yield "online.good_from: is of online.rewards, and something else judges; leave it out"
    yield from _advantage_problems(config, online)
    if online.combine == "pareto" and (config.objective.layout != "pairs" or online.members != 2):
        yield "online.combine: pareto says which of two is better: for methods on pairs with online.members: 2"
    if online.reference_every is not None and not config.objective.compares_with_reference:
        yield f"online.reference_every: {config.objective.name!r} has no reference; leave it out"
    if online.average_decay is not None and not config.objective.compares_with_average:
        yield "online.average_decay: is of awm with objective.ema_weight > 0; leave it out"
    if not online.branch_norms:
        yield "online.branch_norms: is of diffusion_dro; leave it out"


def _advantage_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    name, apart = config.objective.name, online.combine in ("standardised", "decoupled")
    if "advantage" not in config.objective.inputs():
        if apart:
            yield f"online.combine: {online.combine} makes advantages, and {name!r} takes none; take sum, votes or pareto"
        for setting in _given(online, ("advantage",)):
            yield f"online.{setting}: {name!r} takes no advantages; leave it out"
    elif apart:
        if online.advantage.scope == "batch":
            yield (
                f"online.advantage.scope: with online.combine: {online.combine} each reward is standardised in its "
                "group; leave it out"
            )
        if online.weights is not None and not sum(online.weights):
            yield f"online.weights: must not sum to 0 with online.combine: {online.combine}, got {list(online.weights)}"


def _human_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    for setting in _given(online, _OF_REWARDS):
        yield (
            f"online.{setting}: is of rewards, and with online.preference: human people judge; leave it out, or "
            f"override it by --set 'online.{setting}={_OF_REWARDS[setting]}'"
        )
    if config.training.processes > 1:
        yield "online.preference: 'human' is for one process; set training.processes to 1"


def _trajectory_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    name, sampler = config.objective.name, online.sampler
    if sampler is None:
        yield f"online.sampler: {name!r} learns from steps that add noise; take ddim with eta > 0, or flow_sde"
    elif isinstance(sampler, DDIMParams) and not sampler.eta:
        yield f"online.sampler.eta: {name!r} learns from steps that add noise; take eta > 0 (the papers have 1)"
    elif sampler.name not in ("ddim", "flow_sde"):
        yield f"online.sampler.name: {name!r} learns from steps that add noise; take ddim or flow_sde, got {sampler.name!r}"
    if isinstance(sampler, FlowSDEParams) and sampler.form == "cps" and getattr(config.objective, "guard", False):
        yield "objective.guard: mends ratios of densities, and online.sampler.form: cps has none; set guard to false"
    if sampler is not None:
        window = sampler.window if isinstance(sampler, FlowSDEParams) else None
        able = sampler.steps if window is None else window.length
        if window is None and isinstance(sampler, FlowSDEParams) and sampler.form == "cps":
            able -= 1  # its step to t = 0 adds none
        if online.skip_last >= able:
            yield f"online.skip_last: must be less than the steps with noise ({able}), got {online.skip_last}"
        elif online.trained_steps is not None and online.trained_steps > able - online.skip_last:
            yield f"online.trained_steps: must be at most {able - online.skip_last}, got {online.trained_steps}"
    if config.model.lora.dropout:
        yield f"model.lora.dropout: {name!r} compares the steps that were drawn with the same network's; set it to 0"
    if config.model.guidance is not None:
        yield f"model.guidance: {name!r} trains with online.guidance_scale, which drew the steps; leave it out"
    why = f"{name!r} learns from the steps of sampling"
    if online.keep_rounds != 1:
        yield f"online.keep_rounds: {name!r} learns from the newest trajectories alone; leave it out"
    if online.draws != 1:
        yield f"online.draws: {why}, which have their times and noise; leave it out"
    for setting in _given(config, ("time",)):
        yield f"{setting}: {why}, which have their times; leave the section out"
    for setting in _given(config.training, ("noise", "share_noise", "share_time", "measure")):
        yield f"training.{setting}: {why}, and not from denoising errors; leave it out"
    for setting in _given(config.data, ("reward_range",)):
        yield f"data.{setting}: {why}, by advantages; leave it out"
    if config.training.two_pass:
        yield f"training.two_pass: {name!r} does so with training.max_batch; set it to false"


def _error_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    name = config.objective.name
    if online.same_start:
        yield f"online.same_start: is of methods that learn from the steps of sampling, and {name!r} does not; leave it out"
    for setting in ("trained_steps", "skip_last"):
        if getattr(online, setting):
            yield f"online.{setting}: is of methods that learn from the steps of sampling; leave it out"
    if config.training.measure and any(each.endswith(("residual", "divergence")) for each in config.objective.inputs()):
        yield f"training.measure: {name!r} takes the network's own prediction, a velocity, for what it is; leave it out"
    steps = None if online.sampler is None else online.sampler.steps
    if isinstance(config.time, ScheduleTime) and steps is not None:
        skipped = config.time.skip_first + config.time.skip_last
        if skipped >= steps:
            yield f"time.skip_last: with skip_first must be less than online.sampler.steps ({steps}), got {skipped}"
    if online.draws > 1 and "baseline" in config.objective.inputs():
        yield f"online.draws: {name!r} compares with a mean over the whole batch, of one draw each; leave it out"


def _expert_problems(config: RunConfig, online: OnlineConfig) -> Iterator[str]:
    """Of a method whose records are the good samples, and the policy's own the others."""
    name = config.objective.name
    if config.data.kind == "prompts":
        yield f"data.kind: {name!r} learns from good pictures; give pairs, groups (the best of each counts) or labelled"
    for setting in _given(online, (each for each in type(online).model_fields if each not in _OF_EXPERTS)):
        yield f"online.{setting}: has no meaning for {name!r}, which draws one picture beside each record; leave it out"
    if config.training.reference_bank is not None:
        yield f"training.reference_bank: {name!r} draws anew at every step; leave it out"
    if config.training.noise.name != "gaussian":
        yield f"training.noise: {name!r} has the noise of its sampling path; leave it out"
    if config.training.two_pass:
        yield f"training.two_pass: is not for {name!r}; set it to false"
    for setting in _given(config, ("time",)):
        yield f"{setting}: {name!r} takes the times of its sampling path; leave the section out"
