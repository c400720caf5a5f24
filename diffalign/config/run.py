"""The settings of one run, section by section. Every key of a config file is a field here; nothing else is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from diffalign.config.data import COLUMNS, DataConfig
from diffalign.config.fields import LocalPath, OwnFolder, ShareBelowOne
from diffalign.config.method_problems import method_problems
from diffalign.config.model import FLOW_FAMILIES, GUIDED_FAMILIES, SHAPE_FAMILIES, T5_FAMILIES, ModelConfig
from diffalign.config.noise import GaussianNoise, InversionNoise, NoiseParams
from diffalign.config.objectives import FlowDPOParams, ObjectiveParams, PairWeightParams
from diffalign.config.online import OnlineConfig
from diffalign.config.online_problems import online_problems
from diffalign.config.params import Params
from diffalign.config.rewards import JPEGParams, SampleRewards
from diffalign.config.sample_rewards import medium_problems
from diffalign.config.samplers import FlowSDEParams, SamplerParams, sampler_problems
from diffalign.config.time import StratifiedTime, TimeParams, UniformTime


class OptimizerConfig(Params):
    name: Literal["adamw", "adamw8bit"] = "adamw"  # adamw8bit: bitsandbytes' (extra eightbit, CUDA)
    learning_rate: PositiveFloat
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.01
    epsilon: PositiveFloat = 1e-8
    warmup_steps: NonNegativeInt = 0  # optimizer steps, not micro-batches
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up, down to 0 at the last step
    max_grad_norm: Annotated[PositiveFloat, Field(allow_inf_nan=True)] = (
        1.0  # L2 over all trained parameters; inf turns clipping off
    )


class TrainingConfig(Params):
    steps: PositiveInt  # optimizer steps
    groups: PositiveInt  # groups in one forward of one process
    accumulation: PositiveInt = 1  # forwards per optimizer step
    processes: PositiveInt = 1  # a run started with another number of processes is refused
    # none: every process has the whole network (DDP); fsdp2: a piece of each of its blocks, and of the optimizer's state
    sharding: Literal["none", "fsdp2"] = "none"
    max_batch: PositiveInt | None = None  # samples per network call; None: all of a forward at once
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    # errors are measured as if the network predicted this; None: its own prediction, or what the objective's paper measures
    measure: Literal["noise", "sample", "v", "flow", "edm"] | None = None
    # errors first without gradient, then sample by sample: the same gradient, the memory of max_batch samples (or one)
    two_pass: bool = False
    # epochs whose draws are repeated, with their reference errors kept on disk; None: the reference is asked at every step
    reference_bank: PositiveInt | None = None
    # multiplies the losses of pairs by what their rewards say, before the mean; None: every pair counts once
    pair_weight: PairWeightParams | None = None
    noise: NoiseParams = GaussianNoise()  # where it comes from
    share_noise: bool = True  # the members of a group get the same noise, where it is drawn
    share_time: bool = True  # the members of a group get the same time
    ema_decay: ShareBelowOne | None = None  # None: no EMA
    checkpoint_every: PositiveInt | None = 100  # steps; None: at the end only
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 1
    threads: PositiveInt | None = None  # CPU threads of torch; None: torch's own choice


class SamplesConfig(Params):
    every: PositiveInt | None = None  # steps between held-out samples; None: never
    count: PositiveInt = 16  # prompts drawn each time, the first of evaluation.prompts


class EvaluationConfig(Params):
    prompts: LocalPath | None = None  # zoo://name/held_out, a .txt or a .jsonl; None: no evaluation
    count: PositiveInt | None = None  # None: all of them
    members: PositiveInt = 1  # pictures of each prompt, each with a seed of its own
    rewards: SampleRewards = (JPEGParams(),)  # JPEG size needs no model and fits every picture
    trained_reward: str | None = None  # name of the reward that made the preferences: shown apart
    quality: str | None = None  # reward.component in [0, 1], for the corrected score of the trained reward
    sampler: SamplerParams | None = None  # None: the family's own
    guidance_scale: NonNegativeFloat = 1.0  # 1: the conditional branch alone
    batch: PositiveInt = 50
    seed: NonNegativeInt = 0
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    resamples: PositiveInt = 10_000


class HealthConfig(Params):
    """What each alarm does. NaN always stops: there is nothing left to save."""

    # the policy forgets the preferred samples; auto: warn, and stop for dso_dro, whose loss has no bound
    winner_error_rising: Literal["auto", "off", "warn", "stop"] = "auto"
    # times the reference's error on them, or, where none is asked, their own at first; mean of the last `window` steps
    winner_error_limit: PositiveFloat = 1.3
    saturation: Literal["off", "warn", "stop"] = "warn"  # the loss has nothing more to teach
    # mean loss of the last `window` steps; in proportion less where the first ones average below ln 2
    saturation_limit: PositiveFloat = 0.02
    reward_hacking: Literal["off", "warn", "stop"] = "warn"  # the held-out reward falls while the trained one rises
    diversity_collapse: Literal["off", "warn", "stop"] = "warn"  # pictures of different prompts become alike
    diversity_limit: ShareBelowOne = 0.6  # times the samples' diversity before the first step
    # shapes become fuller, or vanish: a slab stands too; auto: warn, and stop for dso_dro
    volume_drift: Literal["auto", "off", "warn", "stop"] = "auto"
    volume_limit: Annotated[float, Field(gt=1.0)] = 1.35  # times the samples' volume before the first step, or 1 / that
    window: PositiveInt = 20


class LogConfig(Params):
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # besides metrics.jsonl, which is always written


class RunConfig(Params):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "run"
    seed: NonNegativeInt = 0
    folder: OwnFolder = "runs"  # run folders are made in here
    device: str | None = None  # None: CUDA, then MPS, then CPU
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveParams
    time: TimeParams = UniformTime()
    optimizer: OptimizerConfig
    training: TrainingConfig
    samples: SamplesConfig = SamplesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    health: HealthConfig = HealthConfig()
    log: LogConfig = LogConfig()
    online: OnlineConfig | None = None  # None: the records are all there is to learn from

    @model_validator(mode="after")
    def _sections_fit_together(self) -> RunConfig:
        problems = [
            *self._model_problems(),
            *self._training_problems(),
            *self._evaluation_problems(),
            *online_problems(self),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _model_problems(self) -> Iterator[str]:
        family, sampler = self.model.family, self.evaluation.sampler
        flow = family in FLOW_FAMILIES
        yield from method_problems(self.objective.name, family, draws=self.online is not None)
        yield from self.model.problems()
        if family in SHAPE_FAMILIES and self.online is None:
            yield (
                f"data.kind: records hold pictures, and model.family {family!r} draws shapes, which it learns from as it "
                "draws them: give data.kind: prompts and the section `online` (docs/volumes.md)"
            )
        if sampler is not None:
            yield from sampler_problems(sampler, family, "evaluation.sampler")
            window = sampler.window if isinstance(sampler, FlowSDEParams) else None
            if window is not None and window.schedule != "fixed":
                yield "evaluation.sampler.window.schedule: moves by rounds of training, and pictures have none; take fixed"
        for setting, families in (("max_sequence_length", T5_FAMILIES), ("guidance", GUIDED_FAMILIES)):
            if getattr(self.model, setting) is not None and family not in families:
                of = " and ".join(map(repr, families))
                yield f"model.{setting}: is a setting of family {of}, and model.family is {family!r}; leave it out"
        if self.model.config is not None and not self.model.path.endswith(".safetensors"):
            yield f"model.config: is for a single .safetensors file, and model.path is {self.model.path!r}; leave it out"
        if not flow and getattr(self.time, "shift", None) == "model":
            yield f"time.shift: 'model' needs a flow model ({', '.join(FLOW_FAMILIES)}), and model.family is {family!r}"

    def _training_problems(self) -> Iterator[str]:
        warmup, steps = self.optimizer.warmup_steps, self.training.steps
        if warmup >= steps:
            yield f"optimizer.warmup_steps: must be < training.steps ({steps}), got {warmup}"
        scheduled = isinstance(self.objective, FlowDPOParams) and self.objective.schedule != "constant"
        if scheduled and not self.training.share_time:
            yield (
                "training.share_time: must be true with objective.schedule: one_minus_t_sq, "
                "which gives a pair one beta for its one time"
            )
        if self.training.sharding == "fsdp2":
            if self.training.mixed_precision == "fp16":
                yield "training.mixed_precision: 'fp16' cannot be used with training.sharding: fsdp2; set it to bf16 or no"
            if self.model.quantise is not None:
                yield "model.quantise: quantised weights cannot be cut into pieces (training.sharding: fsdp2); leave it out"
            if self.optimizer.name == "adamw8bit":
                yield "optimizer.name: 'adamw8bit' cannot be used with training.sharding: fsdp2; set it to adamw"
            if self.model.reference.device is not None:
                yield "model.reference.device: with training.sharding: fsdp2 the reference is in pieces; leave it out"
        yield from self._objective_problems()
        if self.samples.every is not None and self.evaluation.prompts is None:
            yield "samples.every: needs evaluation.prompts, which says what to draw"

    def _objective_problems(self) -> Iterator[str]:
        objective, training = self.objective, self.training
        name, inputs = objective.name, objective.inputs()
        if self.data.members is not None and (self.data.kind != "groups" or self.data.members < 2):
            yield "data.members: draws 2 or more members of each record of data.kind: groups; leave it out"
        other = [column for column in self.data.columns if column not in COLUMNS[self.data.kind]]
        if other:
            yield (
                f"data.columns.{other[0]}: is no column of data.kind: {self.data.kind}, which has "
                f"{', '.join(COLUMNS[self.data.kind])}"
            )
        if self.data.dimension is not None and self.data.kind != "pairs":
            yield f"data.dimension: is of data.kind: pairs, and that is {self.data.kind!r}; leave it out"
        if self.data.pairs_per_group is not None and self.data.kind != "pairs":
            yield f"data.pairs_per_group: is of data.kind: pairs, and that is {self.data.kind!r}; leave it out"
        if training.two_pass and self.model.lora.dropout:
            yield "training.two_pass: needs model.lora.dropout: 0, for both passes must see the same network"
        if training.reference_bank is not None:
            if isinstance(training.noise, InversionNoise):
                yield (
                    "training.reference_bank: with training.noise: inversion the noise comes from the policy of that "
                    "moment, so no draw comes twice; leave it out"
                )
            if "reference" not in inputs:
                yield f"training.reference_bank: {name!r} uses no reference errors; leave it out"
            if isinstance(self.time, StratifiedTime):
                yield "training.reference_bank: stratified times follow the place in the batch; take time.sampling: uniform"
        if training.pair_weight is not None and (objective.layout != "pairs" or "preference" in inputs):
            why = "weighs them by itself" if "preference" in inputs or objective.unit_rewards else "is none on pairs"
            yield f"training.pair_weight: is for an objective on pairs, and {name!r} {why}; leave it out"
        low, high = self.data.reward_range or (0.0, 1.0)
        if low >= high:
            yield f"data.reward_range: must be [low, high] with low < high, got [{low:g}, {high:g}]"
        if self.data.reward_range is not None and not {"preference", "reward"} & set(inputs):
            yield f"data.reward_range: scales rewards, and {name!r} takes neither rewards nor soft preferences"

    def _evaluation_problems(self) -> Iterator[str]:
        yield from medium_problems("evaluation.rewards", self.evaluation.rewards, self.model.draws)
        names = [reward.name for reward in self.evaluation.rewards]
        listed = ", ".join(names)
        if len(set(names)) < len(names):
            yield f"evaluation.rewards: each reward may stand there once, got {listed}"
        trained, quality = self.evaluation.trained_reward, self.evaluation.quality
        if trained is not None and trained not in names:
            yield f"evaluation.trained_reward: {trained!r} is not in evaluation.rewards ({listed})"
        if quality is None:
            return
        judge, _, component = quality.partition(".")
        if judge not in names or not component:
            yield (
                f"evaluation.quality: must look like reward.component with a reward of evaluation.rewards ({listed}), "
                f"got {quality!r}"
            )
        if trained is None:
            yield "evaluation.quality: needs evaluation.trained_reward, whose corrected score it is for"

    @property
    def held_views(self) -> tuple[str, ...]:
        """The networks that are kept beside the policy, and no other."""
        objective, online = self.objective, self.online
        copied = online is not None and (objective.compares_with_behaviour or not online.draws_with_policy)
        held = {
            "reference": objective.compares_with_reference,
            "ema": self.training.ema_decay is not None,
            "behaviour": copied,
            "average": objective.compares_with_average,
            "anchor": online is not None and online.reference_every is not None,
        }
        return tuple(name for name, is_held in held.items() if is_held)

    @property
    def drawing_view(self) -> str:
        """The network that an online run draws with."""
        return "behaviour" if "behaviour" in self.held_views else "policy"

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the rewards that say what is learnt: of an online run those that judge, else what the config says."""
        online, named = self.online, self.evaluation.trained_reward
        if online is None or self.objective.experts:
            return () if named is None else (named,)
        sets = () if online.set_reward is None else (online.set_reward,)
        return tuple(dict.fromkeys(reward.name for reward in (*online.rewards, *sets)))

    @property
    def prompts_per_round(self) -> int:
        """Prompts that an online run draws for before it trains again."""
        asked = None if self.online is None else self.online.prompts
        return self.groups_per_step if asked is None else asked

    @property
    def groups_per_step(self) -> int:
        """Groups that one optimizer step sees, over all processes."""
        return self.training.groups * self.training.accumulation * self.training.processes
