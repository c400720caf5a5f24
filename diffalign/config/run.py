"""The settings of one run, section by section. Every key of a config file is a field here; nothing else is accepted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from diffalign.config.objectives import ObjectiveParams
from diffalign.config.params import Params
from diffalign.config.rewards import JPEGParams, RewardParams, SceneParams
from diffalign.config.samplers import SamplerParams
from diffalign.config.time import TimeParams, UniformTime

Share = Annotated[float, Field(ge=0.0, le=1.0)]
FLOW_FAMILIES = ("sd3",)
Precision = Literal["fp32", "bf16", "fp16"]


class LoRAConfig(Params):
    rank: PositiveInt = 8  # diffusers' Diffusion-DPO command: rank = alpha = 8
    alpha: PositiveFloat = 8.0
    dropout: Share = 0.0
    targets: tuple[str, ...] | None = None  # None: the family's attention projections
    init: Literal["gaussian", "default"] = "gaussian"


class ModelConfig(Params):
    family: Literal["sd", "sd3"]
    path: str  # zoo://name, a local folder or a hub id
    precision: Precision = "fp32"  # of the frozen weights; trained LoRA weights are always fp32
    gradient_checkpointing: bool = False
    max_sequence_length: PositiveInt | None = None  # sd3: length of the T5 part; None: diffusers' 256
    lora: LoRAConfig = LoRAConfig()


class DataConfig(Params):
    kind: Literal["pairs"] = "pairs"
    path: str  # zoo://name/preferences, a folder with metadata.jsonl, a .jsonl or a .parquet
    resolution: PositiveInt | None = None  # pixels of the square crop; None: the model's own
    flip: bool = False  # mirror all members of a record together
    empty_prompt_share: Share = 0.0  # share of groups trained with the empty prompt
    on_bad: Literal["error", "skip"] = "error"
    cache: str | None = None  # folder of text and latent cache; None: beside the run folders
    columns: dict[str, str] = {}  # our column name -> theirs


class OptimizerConfig(Params):
    learning_rate: PositiveFloat
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.01
    epsilon: PositiveFloat = 1e-8
    warmup_steps: NonNegativeInt = 0  # optimizer steps, not micro-batches
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up, down to 0 at the last step
    max_grad_norm: PositiveFloat = 1.0  # L2 over all trained parameters; inf turns clipping off


class TrainingConfig(Params):
    steps: PositiveInt  # optimizer steps
    groups: PositiveInt  # groups in one forward of one process
    accumulation: PositiveInt = 1  # forwards per optimizer step
    processes: PositiveInt = 1  # a run started with another number of processes is refused
    max_batch: PositiveInt | None = None  # samples per network call; None: all of a forward at once
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    share_noise: bool = True  # the members of a group get the same noise
    share_time: bool = True  # the members of a group get the same time
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None  # None: no EMA
    checkpoint_every: PositiveInt | None = None  # steps; None: at the end only
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 1
    threads: PositiveInt | None = None  # CPU threads of torch; None: torch's own choice


class SamplesConfig(Params):
    every: PositiveInt | None = None  # steps between held-out samples; None: never
    count: PositiveInt = 16  # prompts drawn each time, the first of evaluation.prompts


class EvaluationConfig(Params):
    prompts: str | None = None  # zoo://name/held_out, a .txt or a .jsonl; None: no evaluation
    count: PositiveInt | None = None  # None: all of them
    rewards: tuple[RewardParams, ...] = (SceneParams(), JPEGParams())
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

    winner_error_rising: Literal["off", "warn", "stop"] = "warn"  # the policy forgets the preferred pictures
    winner_error_limit: PositiveFloat = 1.3  # times the reference's winner error, mean of the last `window` steps
    saturation: Literal["off", "warn", "stop"] = "warn"  # the loss has nothing more to teach
    saturation_limit: PositiveFloat = 0.02  # mean loss of the last `window` steps
    reward_hacking: Literal["off", "warn", "stop"] = "warn"  # the held-out reward falls while the trained one rises
    window: PositiveInt = 20


class LogConfig(Params):
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # besides metrics.jsonl, which is always written


class RunConfig(Params):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    seed: NonNegativeInt = 0
    folder: str = "runs"  # run folders are made in here
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

    @model_validator(mode="after")
    def _objective_fits_family(self) -> RunConfig:
        if self.objective.families == "flow" and self.model.family not in FLOW_FAMILIES:
            raise ValueError(
                f"objective.name: {self.objective.name!r} needs a flow model ({', '.join(FLOW_FAMILIES)}), and model.family "
                f"{self.model.family!r} is none; use objective.name: diffusion_dpo"
            )
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> RunConfig:
        if self.optimizer.warmup_steps >= self.training.steps:
            raise ValueError(
                f"optimizer.warmup_steps: must be < training.steps ({self.training.steps}), "
                f"got {self.optimizer.warmup_steps}"
            )
        return self

    @model_validator(mode="after")
    def _trained_reward_is_shown(self) -> RunConfig:
        names = [reward.name for reward in self.evaluation.rewards]
        trained = self.evaluation.trained_reward
        if trained is not None and trained not in names:
            raise ValueError(f"evaluation.trained_reward: {trained!r} is not in evaluation.rewards ({', '.join(names)})")
        quality = self.evaluation.quality
        if quality is not None and (trained is None or quality.partition(".")[0] not in names):
            raise ValueError(
                f"evaluation.quality: must look like reward.component with a reward of evaluation.rewards "
                f"({', '.join(names)}), and needs evaluation.trained_reward; got {quality!r}"
            )
        return self

    @property
    def groups_per_step(self) -> int:
        """Groups that one optimizer step sees, over all processes."""
        return self.training.groups * self.training.accumulation * self.training.processes
