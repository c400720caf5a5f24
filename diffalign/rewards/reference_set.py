"""Reference sets of a distributional reward: a folder of pictures, or a file of features or of their statistics.

The set is what a model is pulled to: know where it comes from and what its licence allows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffalign.exceptions import ConfigError, DataError, SaveError
from diffalign.rewards.encoders import Encoder, TextEncoder, frames_of
from diffalign.rewards.set_functional import Gaussian, gaussian_statistics
from diffalign.rgb import as_rgb

_PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
_CHUNK = 256  # samples whose features are in memory at a time
_SOUNDS = 16  # the same of sound, which takes more room


def fit_reference(media: Iterable[Any], encoder: Encoder) -> Gaussian:
    """Mean and covariance of the features of any number of samples; few are in memory at a time.

    Of sound every frame counts, as in the Fréchet audio distance: the size is that of all frames.

    Args:
        media: samples, one by one, as the encoder takes them.

    Raises:
        DataError: fewer than 2 samples (frames), or one that the encoder cannot take.
    """
    return _fit(media, lambda chunk: frames_of(encoder, chunk), _SOUNDS if encoder.media == "audio" else _CHUNK)


def fit_text_reference(texts: Iterable[str], encoder: TextEncoder) -> Gaussian:
    """The same of texts: what a set of media is to show, told in words.

    Raises:
        DataError: fewer than 2 texts, or one that the encoder cannot take.
    """

    def rows(chunk: list[str]) -> list[Tensor | str]:
        return [each if isinstance(each, str) else each[None] for each in encoder.encode_texts(chunk)]

    return _fit(texts, rows, _CHUNK)


def _fit(samples: Iterable[Any], encode: Callable[[list[Any]], list[Tensor | str]], size: int) -> Gaussian:
    coming, fitted, seen = iter(samples), None, 0
    waiting: list[Tensor] = []
    while chunk := list(islice(coming, size)):
        for place, one in enumerate(encode(chunk), seen):
            if isinstance(one, str):
                raise DataError(f"sample {place} of the reference set: {one}")
            waiting.extend(one)
        seen += len(chunk)
        if len(waiting) > 1:  # one alone has no covariance: it waits for the next
            part = gaussian_statistics(torch.stack(waiting))
            fitted = part if fitted is None else fitted.merged(part)
            waiting = []
    if waiting and fitted is not None:
        alone = Gaussian(waiting[0], torch.zeros_like(fitted.cov), 1)
        fitted = fitted.merged(alone)
    if fitted is None:
        raise DataError(f"a reference set needs at least 2 samples, got {seen}")
    return fitted


def save_reference(
    path: Path, statistics: Gaussian, encoder: Encoder, *, about: Mapping[str, str] | None = None
) -> None:
    """Write mean, covariance and size as `read_reference` reads them: a .safetensors file, whole or not at all.

    The file's metadata hold the encoder, the hash of all that the file says (`sha256`), and `about`.

    Args:
        path: of the file.
        statistics: what `fit_reference` returns.
        encoder: that they are of.
        about: what else there is to say of the set: `licence`, `source`, `inputs` (their hash), `of` (image, text, ...).

    Raises:
        SaveError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.partial")
    tensors = {
        "mean": statistics.mean.contiguous(),
        "cov": statistics.cov.contiguous(),
        "size": torch.tensor(statistics.size),
    }
    facts = {**(about or {}), "encoder": _identity(encoder)}
    try:
        save_file(tensors, draft, metadata=facts | {"sha256": _digest(tensors, facts)})
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"{path}: cannot be written ({error})") from None
    finally:
        draft.unlink(missing_ok=True)


def reference_facts(path: str | Path) -> dict[str, str]:
    """What a reference file says of itself: `encoder`, `sha256`, and what `save_reference` was told `about` it.

    Raises:
        DataError: it cannot be read.
    """
    return _read_file(Path(path))[1]


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype};".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_reference(path: str | Path, encoder: Encoder, reward: str = "frechet") -> Gaussian:
    """Mean and covariance of a reference set.

    Args:
        path: a folder of pictures (of all its folders too), or a .safetensors file: `features` [samples, ...] of the
            encoder (of sound: of its frames), or what `save_reference` wrote.
        encoder: that the samples are scored with.
        reward: whose reference it is, for messages.

    Raises:
        ConfigError: nothing is there, or it is of another encoder.
        DataError: a picture or the file cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        return _of_folder(place, encoder, reward)
    if not place.is_file():
        raise ConfigError(f"{reward}.reference: no such file or folder: {place}")
    if place.suffix != ".safetensors":
        raise ConfigError(f"{reward}.reference: must be a folder of pictures or a .safetensors file, got {place}")
    return _of_file(place, encoder, reward)


def encoder_of(path: str | Path) -> str | None:
    """The name of the encoder that a reference file was made with; None where it does not say, and of a folder."""
    place = Path(path)
    if place.suffix != ".safetensors" or not place.is_file():
        return None
    return reference_facts(place).get("encoder", "").partition(" ")[0] or None


def _of_folder(folder: Path, encoder: Encoder, reward: str) -> Gaussian:
    if encoder.media != "image":
        raise ConfigError(
            f"{reward}.reference: {folder} is a folder of pictures, and encoder {encoder.name!r} takes none; give a "
            ".safetensors file with features [samples, ...], or what save_reference writes"
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if len(paths) < 2:
        raise DataError(f"{reward}.reference: {folder} has {len(paths)} pictures; at least 2 are needed")

    def pictures() -> Iterator[Image.Image]:
        for path in paths:
            try:
                with Image.open(path) as picture:
                    yield as_rgb(ImageOps.exif_transpose(picture))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError, DataError) as error:
                raise DataError(f"{path}: not a readable picture ({error}); remove it from the reference set") from None

    return fit_reference(pictures(), encoder)


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. What is hashed must be as it was written; features that others saved are not."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable reference set ({error})") from None
    told = {name: text for name, text in facts.items() if name != "sha256"}
    if {"sha256", "encoder"} <= facts.keys() and facts["sha256"] != _digest(found, told):
        raise DataError(f"{path}: is not what was written: its hash is another than it says; make it anew")
    return found, facts


def _of_file(path: Path, encoder: Encoder, reward: str) -> Gaussian:
    found, facts = _read_file(path)
    made_with = facts.get("encoder", _identity(encoder))
    if made_with != _identity(encoder):
        raise ConfigError(
            f"{reward}.reference: {path} was made with encoder {made_with!r}, and {reward}.encoder is "
            f"{_identity(encoder)!r}; leave out the encoder, set another model of it, or make the file anew"
        )
    if "features" in found:
        return _of_features(path, found["features"])
    if not {"mean", "cov", "size"} <= found.keys():
        raise DataError(f"{path}: must hold features, or mean, cov and size; it has {', '.join(found) or 'nothing'}")
    return _of_statistics(path, found["mean"], found["cov"], found["size"])


def _of_features(path: Path, features: Tensor) -> Gaussian:
    if features.ndim < 2 or 0 in features.shape[1:]:
        raise DataError(f"{path}: features must be [samples, ...], got {list(features.shape)}")
    try:
        return gaussian_statistics(features.flatten(1))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _of_statistics(path: Path, mean: Tensor, cov: Tensor, size: Tensor) -> Gaussian:
    if mean.ndim != 1 or not len(mean) or cov.shape != (len(mean), len(mean)):
        raise DataError(f"{path}: must have mean [d] and cov [d, d], got {list(mean.shape)} and {list(cov.shape)}")
    for name, values in (("mean", mean), ("cov", cov)):
        if not bool(values.isfinite().all()):
            raise DataError(f"{path}: {name} is not finite")
    if size.numel() != 1 or not float(size) >= 2 or float(size) % 1:
        raise DataError(f"{path}: size must be one whole number, 2 or more, got {size.tolist()!s:.80}")
    return Gaussian(mean.double(), cov.double(), int(size))


def _identity(encoder: Encoder) -> str:
    return f"{encoder.name} {encoder.version}"
