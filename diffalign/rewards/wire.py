"""Samples and their judgements as bytes and back, for rewards in other processes and on other machines. No pickle.

A message is `MAGIC`, the length of its header (8 bytes, little-endian), the header as JSON in UTF-8, and the arrays that
the header lists, one after the other, raw: C order, little-endian. Whatever is wrong with a message is a DataError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.pictures import reference_pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.wire_media import Arrays, Packed, pack_medium, read_medium

MAGIC = b"diffalign wire 1\n"
_DTYPES = {"uint8": "|u1", "float32": "<f4", "float64": "<f8", "int64": "<i8"}
_MOST_AXES = 6
_LONGEST_HEADER = 64 * 2**20  # bytes
_START = len(MAGIC) + 8


def pack(facts: Mapping[str, Any], arrays: Arrays = ()) -> bytes:
    """A message: plain facts (strict JSON) and arrays of uint8, float32, float64 or int64."""
    listed = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]
    header = json.dumps({"facts": facts, "arrays": listed}, allow_nan=False).encode()
    raw = [np.ascontiguousarray(array, dtype=_DTYPES[array.dtype.name]).tobytes() for array in arrays]
    return b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *raw])


def unpack(message: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The facts and the arrays, which cannot be written to.

    Raises:
        DataError: it is not such a message, or cut short, or too long.
    """
    if not message.startswith(MAGIC) or len(message) < _START:
        raise DataError(f"not a message of diffalign: it starts with {message[:20]!r}")
    length = int.from_bytes(message[len(MAGIC) : _START], "little")
    if length > min(_LONGEST_HEADER, len(message) - _START):
        raise DataError(f"its header should have {length} bytes, and {len(message) - _START} are there")
    try:
        header = json.loads(message[_START : _START + length])
        facts, listed = header["facts"], header["arrays"]
        sizes = [(_DTYPES[each["dtype"]], _shape(each["shape"])) for each in listed]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"its header is not what it should be ({type(error).__name__}: {str(error)[:100]})") from None
    if not isinstance(facts, dict):
        raise DataError(f"its facts must be a mapping, got {type(facts).__name__}")
    arrays, place = [], _START + length
    for dtype, shape in sizes:
        count = math.prod(shape)
        if place + count * np.dtype(dtype).itemsize > len(message):
            raise DataError(
                f"its arrays should have more bytes than the {len(message) - _START - length} that are there"
            )
        try:
            arrays.append(np.frombuffer(message, dtype, count, place).reshape(shape))
        except (ValueError, OverflowError) as error:  # nothing of it is there, and a side is larger than numpy counts
            raise DataError(f"an array cannot have the shape {str(list(shape))[:100]}: {error}") from None
        place += arrays[-1].nbytes
    if place != len(message):
        raise DataError(f"{len(message) - place} bytes stand behind its last array")
    return facts, arrays


def _shape(told: Any) -> tuple[int, ...]:
    if (
        not isinstance(told, list)
        or len(told) > _MOST_AXES
        or not all(type(side) is int and side >= 0 for side in told)
    ):
        raise ValueError(f"a shape must be a list of sizes, got {told!r}")
    return tuple(told)


def pack_sample(medium: Any, sample: Sample, spec: RewardSpec) -> Packed:
    """A sample whose medium is in the form in which it is judged, with its metadata if the reward needs or reads them.

    Raises:
        DataError: it has metadata that are not JSON, or a reference is needed and none can be read.
    """
    media = [pack_medium(medium)]
    facts: dict[str, Any] = {"id": sample.id, "prompt": sample.prompt}
    if "reference" in spec.needs:
        media.append(pack_medium(reference_pixels(sample.metadata)))
    if "metadata" in {*spec.needs, *spec.reads}:
        facts["metadata"] = plain_metadata(sample.metadata)
    arrays: list[NDArray[Any]] = []
    facts["media"] = []
    for each in media:
        places = list(range(len(arrays), len(arrays) + len(each.arrays)))
        facts["media"].append({**each.facts, "arrays": places})
        arrays += each.arrays
    return Packed(facts, arrays)


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """All but the reference, which must be JSON.

    Raises:
        DataError: it is not; says which entry.
    """
    plain = {key: value for key, value in metadata.items() if key != "reference"}
    for key, value in plain.items():
        try:
            json.dumps({key: value}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"metadata {key!r} cannot be sent or remembered, since it is not JSON: {error}") from None
    return plain


def pack_samples(samples: Sequence[Packed], **facts: Any) -> bytes:
    """A message of samples and of what is asked about them."""
    arrays: list[NDArray[Any]] = []
    told = []
    for sample in samples:
        media = [
            {**each, "arrays": [place + len(arrays) for place in each["arrays"]]} for each in sample.facts["media"]
        ]
        told.append({**sample.facts, "media": media})
        arrays += sample.arrays
    return pack({**facts, "samples": told}, arrays)


def read_samples(message: bytes) -> tuple[dict[str, Any], list[Sample]]:
    """What was asked, and the samples, whose media are in the form in which they are judged.

    Raises:
        DataError: the message, or a sample of it, is not what it should be.
    """
    facts, arrays = unpack(message)
    try:
        return facts, [_sample(told, arrays) for told in facts["samples"]]
    except DataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, ShapeError) as error:
        raise DataError(f"its samples are not what they should be ({type(error).__name__}: {error})") from None


def _sample(told: Mapping[str, Any], arrays: Arrays) -> Sample:
    media = []
    for each in told["media"]:
        if not all(type(place) is int and place >= 0 for place in each["arrays"]):
            raise DataError("arrays are told by their places")
        media.append(read_medium(each, [arrays[place] for place in each["arrays"]]))
    metadata = {**told.get("metadata", {}), **({"reference": media[1]} if len(media) > 1 else {})}
    if not isinstance(told["prompt"], str) or not isinstance(told["id"], str):
        raise DataError("prompt and id must be text")
    return Sample(media[0], told["prompt"], metadata, told["id"])


def pack_judged(judged: Mapping[str, Sequence[Judged]], rewards: Mapping[str, BatchReward]) -> bytes:
    """What each of the rewards says of every sample: a value and components, or a reason."""
    told: dict[str, Any] = {}
    arrays: list[NDArray[Any]] = []
    for name, each in judged.items():
        reward = rewards[name]
        found = [(math.nan, {}) if isinstance(one, str) else one for one in each]
        told[name] = {
            "version": reward.spec.version,
            "reasons": [one if isinstance(one, str) else None for one in each],
            "components": list(reward.components),
            "first": len(arrays),  # the array of its values; those of its components follow
        }
        arrays.append(np.array([value for value, _ in found], dtype=np.float64))
        arrays += [
            np.array([parts.get(name, math.nan) for _, parts in found], dtype=np.float64) for name in reward.components
        ]
    return pack({"rewards": told}, arrays)


def read_judged(message: bytes, name: str, count: int) -> tuple[str, list[Judged]]:
    """The version of the reward that judged, and what it says of each of the `count` samples.

    Raises:
        DataError: the message is not that.
    """
    facts, arrays = unpack(message)
    try:
        told = facts["rewards"][name]
        first, components, reasons = told["first"], told["components"], told["reasons"]
        values, *parts = arrays[first : first + 1 + len(components)]
        if any(each.shape != (count,) for each in (values, *parts)) or not len(reasons) == count:
            raise DataError(f"it does not speak of {count} samples")
        judged: list[Judged] = [
            str(reason)
            if reason is not None
            else (
                float(values[place]),
                {part: float(each[place]) for part, each in zip(components, parts, strict=True)},
            )
            for place, reason in enumerate(reasons)
        ]
        return str(told["version"]), judged
    except DataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"its scores are not what they should be ({type(error).__name__}: {error})") from None


def spec_facts(reward: BatchReward) -> dict[str, Any]:
    """A reward's spec, components and batch, as plain facts; null stands for a bound that is none."""
    bounds = [bound if math.isfinite(bound) else None for bound in reward.spec.range]
    return {
        "spec": {**asdict(reward.spec), "range": bounds},
        "components": list(reward.components),
        "batch": reward.batch,
    }


def read_spec(facts: Any) -> tuple[RewardSpec, tuple[str, ...], int | None]:
    """The spec, the components and the batch that `spec_facts` told.

    Raises:
        DataError: it is something else.
    """
    try:
        told = dict(facts["spec"])
        low, high = told["range"]
        told["range"] = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        told["needs"], told["reads"] = tuple(told["needs"]), tuple(told["reads"])
        wrong = told.keys() ^ {field.name for field in fields(RewardSpec)}
        if wrong:
            raise DataError(f"the spec of another version of diffalign: {', '.join(sorted(wrong))}")
        batch = facts["batch"]
        if not (batch is None or (type(batch) is int and batch > 0)):
            raise DataError(f"a batch must be a number or none, got {batch!r}")
        return RewardSpec(**told), tuple(map(str, facts["components"])), batch
    except DataError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not the spec of a reward ({type(error).__name__}: {error})") from None
