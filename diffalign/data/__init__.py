"""Records, readers, the cache of latents and texts, and groups ready for training."""

from diffalign.data.cache import TensorCache
from diffalign.data.encoding import CachedLatents, PictureEncoding, Share, encode_records, encode_share
from diffalign.data.groups import GroupData, Latents, Texts
from diffalign.data.order import place_of, seeded
from diffalign.data.readers import ReadCounts, read_prompts, read_records
from diffalign.data.records import Record
from diffalign.data.shipped import ShippedLatents, save_latents

__all__ = [
    "CachedLatents",
    "GroupData",
    "Latents",
    "PictureEncoding",
    "ReadCounts",
    "Record",
    "Share",
    "ShippedLatents",
    "TensorCache",
    "Texts",
    "encode_records",
    "encode_share",
    "place_of",
    "read_prompts",
    "read_records",
    "save_latents",
    "seeded",
]
