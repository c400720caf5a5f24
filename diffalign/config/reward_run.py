"""The settings of a run that trains a reward (`task: reward`), section by section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from diffalign.config.data import COLUMNS, Column
from diffalign.config.fields import LocalPath, OwnFolder, ShareBelowOne
from diffalign.config.params import Params
from diffalign.config.run import LogConfig, OptimizerConfig

OVERALL = (
    "overall"  # the dimension that the records' own columns speak of: chosen and rejected, preference, votes, rewards
)
Word = Annotated[str, Field(pattern=r"^[^\W_]+$")]  # as a prompt's words are split, in small letters
_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,39}$"


class SmallScorerParams(Params):
    """A small network from nothing: words of the prompt look at the cells of the picture. For small worlds."""

    name: Literal["small"] = "small"
    side: Annotated[int, Field(ge=8, multiple_of=4)] = 32  # pixels; pictures of another size are scaled to it
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    depth: PositiveInt = 2  # how often the words look
    vocabulary: PositiveInt = 4096  # the commonest words of the training prompts; all others are one


class ClipScorerParams(Params):
    """Heads over CLIP's vectors of picture and text."""

    name: Literal["clip"] = "clip"
    model: LocalPath = "openai/clip-vit-large-patch14"  # a folder or hub id in transformers' format
    train: Literal["heads", "all"] = "heads"  # CLIP frozen, its vectors made once; or CLIP with them, end to end
    hidden: PositiveInt | None = 256  # units of the heads' one hidden layer; None: linear heads


class BradleyTerryParams(Params):
    """A comparison is won with probability sigmoid(difference)."""

    name: Literal["bradley_terry"] = "bradley_terry"
    ties: Literal["half", "leave_out"] = (
        "half"  # half a win for each, as PickScore's; or not learned from, as VideoAlign's
    )


class BradleyTerryTiesParams(Params):
    """With ties as an outcome of their own (Rao and Kupper), as VideoReward is trained."""

    name: Literal["bradley_terry_ties"] = "bradley_terry_ties"
    theta: Annotated[float, Field(gt=1.0)] = 5.0  # VideoAlign's k


class RegressionParams(Params):
    """The rewards that the records state, as numbers."""

    name: Literal["regression"] = "regression"
    huber_delta: PositiveFloat | None = None  # from here on errors count linearly; None: squared everywhere


class LearnedRewardConfig(Params):
    body: Annotated[SmallScorerParams | ClipScorerParams, Field(discriminator="name")]
    # one head each: overall, and what the column preferences names (VQ, MQ, TA)
    dimensions: Annotated[tuple[Annotated[str, Field(pattern=_NAME)], ...], Field(min_length=1)] = (OVERALL,)
    weights: dict[str, float] = {}  # of the dimensions in the reward's one number; 1 where none is named


class ComparisonDataConfig(Params):
    kind: Literal["pairs", "groups"] = "pairs"  # of groups, all pairs of members are compared by their rewards
    # zoo://name/preferences, a folder with metadata.jsonl, a .jsonl, a .parquet, hf://owner/name, a saved dataset
    path: LocalPath
    split: str = "train"  # of a Hugging Face dataset
    config_name: str | None = None  # of a Hugging Face dataset that has several
    limit: PositiveInt | None = None  # stop reading after so many usable records; None: read all
    margin: NonNegativeFloat = 0.0  # of groups: members whose rewards are no further apart are tied
    held_out: ShareBelowOne = 0.1  # share of the prompts that training never sees, and the accuracy is measured on
    on_bad: Literal["error", "skip"] = "error"
    cache: OwnFolder | None = None  # folder for pictures decoded from a zoo set; None: beside the run folders
    columns: dict[Column, str] = {}  # our column name -> theirs


class RewardTrainingConfig(Params):
    steps: PositiveInt  # optimizer steps
    records: PositiveInt  # in one step, with all their pictures
    # weight of a term beside the loss: a record's best picture wins more under its own prompt than under others'
    contrast: NonNegativeFloat = 0.0
    contrast_others: PositiveInt = 2  # prompts of each record's neighbours in the step that it is shown under
    # and its own with these words exchanged, where it has one of them: [[left, right], [before, after]]
    contrast_swaps: tuple[tuple[Word, Word], ...] = ()
    contrast_dimension: str | None = None  # which head learns that; None: the first
    shift: NonNegativeInt = 0  # pixels by which a record's pictures are moved at most, all alike, anew each epoch
    evaluate_every: PositiveInt | None = None  # steps between measures on the held-out prompts; None: at the end only
    checkpoint_every: PositiveInt | None = 200  # steps; None: at the end only
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 1
    threads: PositiveInt | None = None  # CPU threads of torch; None: torch's own choice


class RewardRunConfig(Params):
    task: Literal["reward"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "reward"
    seed: NonNegativeInt = 0
    folder: OwnFolder = "runs"  # run folders are made in here
    device: str | None = None  # None: CUDA, then MPS, then CPU
    reward: LearnedRewardConfig
    loss: Annotated[BradleyTerryParams | BradleyTerryTiesParams | RegressionParams, Field(discriminator="name")] = (
        BradleyTerryParams()
    )
    data: ComparisonDataConfig
    optimizer: OptimizerConfig
    training: RewardTrainingConfig
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> RewardRunConfig:
        if problems := list(self._problems()):
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        dimensions, training, data = self.reward.dimensions, self.training, self.data
        listed = ", ".join(dimensions)
        if len(set(dimensions)) < len(dimensions):
            yield f"reward.dimensions: each may stand there once, got {listed}"
        for name in self.reward.weights:
            if name not in dimensions:
                yield f"reward.weights.{name}: is not in reward.dimensions ({listed})"
        if training.contrast_dimension not in (None, *dimensions):
            yield f"training.contrast_dimension: {training.contrast_dimension!r} is not in reward.dimensions ({listed})"
        if training.contrast and training.contrast_others >= training.records:
            most = training.records
            yield f"training.contrast_others: must be < training.records ({most}), got {training.contrast_others}"
        if training.contrast_swaps and not training.contrast:
            yield "training.contrast_swaps: has no effect without training.contrast; leave it out, or set that to 1"
        if data.kind == "groups" and dimensions != (OVERALL,):
            yield f"reward.dimensions: records of data.kind: groups speak of {OVERALL} alone, got {listed}"
        if data.kind == "pairs" and data.margin:
            yield "data.margin: is of data.kind: groups, whose members have rewards; leave it out"
        if self.loss.name == "regression" and data.kind != "groups":
            yield f"loss.name: 'regression' needs rewards, which data.kind: groups has, and that is {data.kind!r}"
        if self.optimizer.warmup_steps >= training.steps:
            yield f"optimizer.warmup_steps: must be < training.steps ({training.steps}), got {self.optimizer.warmup_steps}"
        other = [column for column in data.columns if column not in COLUMNS[data.kind]]
        if other:
            there = ", ".join(COLUMNS[data.kind])
            yield f"data.columns.{other[0]}: is no column of data.kind: {data.kind}, which has {there}"
        if training.shift and isinstance(self.reward.body, ClipScorerParams) and self.reward.body.train == "heads":
            yield "training.shift: CLIP's vectors are made once, of pictures as they are; leave it out, or train: all"
        if self.log.trackers:
            yield "log.trackers: a run of task: reward writes metrics.jsonl alone; leave it out"

    @property
    def contrast_head(self) -> int:
        """Which dimension, by number, learns that a picture belongs to its own prompt."""
        named = self.training.contrast_dimension
        return 0 if named is None else self.reward.dimensions.index(named)
