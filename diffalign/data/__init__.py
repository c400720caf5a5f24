"""Records, readers, the cache of latents and texts, and groups ready for training."""

from diffalign.data.cache import TensorCache
from diffalign.data.groups import CachedLatents, GroupData, Latents, ShippedLatents, Texts, encode_records, save_latents
from diffalign.data.order import place_of, seeded
from diffalign.data.readers import ReadCounts, read_pairs, read_prompts
from diffalign.data.records import Record

__all__ = [
    "CachedLatents",
    "GroupData",
    "Latents",
    "ReadCounts",
    "Record",
    "ShippedLatents",
    "TensorCache",
    "Texts",
    "encode_records",
    "place_of",
    "read_pairs",
    "read_prompts",
    "save_latents",
    "seeded",
]
