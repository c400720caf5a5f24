"""Records, readers, the cache of latents and texts, and groups ready for training."""

from diffalign.data.buckets import bucket_sizes
from diffalign.data.cache import TensorCache, content_key
from diffalign.data.cached_latents import CachedLatents
from diffalign.data.contrast_sets import (
    Contrast,
    SwapResult,
    WithMean,
    greedy_swap,
    paired_by_reward,
    unpaired_by_reward,
)
from diffalign.data.encoder import PictureEncoding
from diffalign.data.encoding import Share, encode_records, encode_share, latents_of
from diffalign.data.groups import GroupData, Latents
from diffalign.data.order import TrainingOrder, place_of, seeded
from diffalign.data.pair import Paired, Pairing, pair_records
from diffalign.data.readers import ReadCounts, read_prompts, read_records
from diffalign.data.record_list import RecordList, open_list
from diffalign.data.records import Record
from diffalign.data.reward_votes import pareto_preference, share_of_rivals_beaten
from diffalign.data.said import Said
from diffalign.data.shipped import ShippedLatents, prompts_of, save_latents
from diffalign.data.sources import Source
from diffalign.data.texts import Texts

__all__ = [
    "CachedLatents",
    "Contrast",
    "GroupData",
    "Latents",
    "Paired",
    "Pairing",
    "PictureEncoding",
    "ReadCounts",
    "Record",
    "RecordList",
    "Said",
    "Share",
    "ShippedLatents",
    "Source",
    "SwapResult",
    "TensorCache",
    "Texts",
    "TrainingOrder",
    "WithMean",
    "bucket_sizes",
    "content_key",
    "encode_records",
    "encode_share",
    "greedy_swap",
    "latents_of",
    "open_list",
    "pair_records",
    "paired_by_reward",
    "pareto_preference",
    "place_of",
    "prompts_of",
    "read_prompts",
    "read_records",
    "save_latents",
    "seeded",
    "share_of_rivals_beaten",
    "unpaired_by_reward",
]
