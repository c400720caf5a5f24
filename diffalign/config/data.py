"""The section `data`: which records are trained on, and how they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from diffalign.config.fields import LocalPath, OwnFolder, Share
from diffalign.config.params import Params

Column = Literal[
    "prompt", "chosen", "rejected", "id", "source", "condition", "votes", "preferences", "preference", "items", "rewards",
    "item", "label",
]  # fmt: skip
_ANY = ("id", "source", "condition", "votes", "preferences")
COLUMNS: dict[str, tuple[str, ...]] = {  # data.kind -> the columns that it has
    "pairs": ("prompt", "chosen", "rejected", "preference", *_ANY),
    "groups": ("prompt", "items", "rewards", *_ANY),
    "labelled": ("prompt", "item", "label", *_ANY),
    "prompts": ("prompt",),
}


class BucketConfig(Params):
    """Sizes of nearly the area resolution^2: each group takes the one with the nearest ratio of sides."""

    step: PositiveInt = 64  # sides are multiples of this many pixels
    smallest: PositiveInt | None = None  # pixels along the shorter side; None: half of the resolution
    largest: PositiveInt | None = None  # pixels along the longer side; None: twice the resolution, or the model's limit


class DataConfig(Params):
    # prompts: what an online run draws pictures for: a .txt, a .jsonl, zoo://NAME/held_out or the captions of a zoo's set
    kind: Literal["pairs", "groups", "labelled", "prompts"] = "pairs"
    members: PositiveInt | None = None  # of kind groups: how many of a group an epoch sees, drawn anew; None: all
    # zoo://name/preferences, a folder with metadata.jsonl, a .jsonl, a .parquet, hf://owner/name, a saved dataset
    path: LocalPath
    split: str = "train"  # of a Hugging Face dataset
    config_name: str | None = None  # of a Hugging Face dataset that has several
    streaming: bool = False  # read a Hugging Face dataset without keeping a copy of it
    limit: PositiveInt | None = None  # stop reading after so many usable records; None: read all
    dimension: str | None = None  # of column preferences: which one says what is preferred; None: the other columns do
    resolution: PositiveInt | None = (
        None  # pixels of the square crop, or whose square is a bucket's area; None: the model's own
    )
    buckets: BucketConfig | None = None  # None: all pictures are squares
    # resize to cover the size and cut out the centre, or to fit inside, with padding that no error counts
    fit: Literal["crop", "pad"] = "crop"
    flip: bool = False  # mirror all members of a record together
    pairs_per_group: PositiveInt | None = None  # of pairs taken from a zoo set: how many at most; None: all
    # rewards that count as 0 and 1, for methods on rewards (cut to that range) and for soft preferences; None: as they are
    reward_range: tuple[float, float] | None = None
    empty_prompt_share: Share = 0.0  # share of groups trained with the empty prompt, encoded as any other
    on_bad: Literal["error", "skip"] = "error"
    cache: OwnFolder | None = None  # folder of text and latent cache; None: beside the run folders
    encode_batch: PositiveInt = (
        8  # pictures in one call of the autoencoder; 8 times as many prompts of the text encoders
    )
    columns: dict[Column, str] = {}  # our column name -> theirs
