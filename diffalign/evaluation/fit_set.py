"""A reference set of a source: statistics in a file that says what they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffalign import __version__
from diffalign.data.media_files import media_of
from diffalign.data.picture_rows import read_pictures
from diffalign.data.records import picture_bytes
from diffalign.evaluation.score_samples import sample_of
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import Encoder, TextEncoder, fit_reference, fit_text_reference, save_reference
from diffalign.rewards.media import MEDIA


class Fitted(NamedTuple):
    """What `fit_set` wrote.

    Attributes:
        file: that was written.
        samples: that it is of; of sounds their frames.
        about: what it says of itself beside the numbers.
        inputs: pictures, sounds or texts that these came from.
    """

    file: Path
    samples: int
    about: dict[str, str]
    inputs: int


def fit_set(
    source: Path,
    out: Path,
    encoder: Encoder,
    *,
    licence: str = "",
    origin: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Fitted:
    """Write mean and covariance of the features of all samples of a source, for the reward `frechet`.

    Args:
        source: what `read_pictures` reads; or a .txt of texts, one a line, for an encoder that has texts in the same space.
        out: a .safetensors file.
        encoder: that sets are compared by.
        licence: of the samples.
        origin: where they come from.
        overwrite: whether `out` may be there already, and is replaced.
        progress: called now and then with (samples, samples in all).

    Raises:
        ConfigError: the encoder takes no such samples, or `out` is no .safetensors file, or is there already.
        DataError: one of them cannot be read; every one counts in a reference set.
        SaveError: the file cannot be written.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out: must end in .safetensors, got {out}")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} is there already; choose another file, or say --overwrite")
    digest, inputs = hashlib.sha256(), 0
    if source.suffix == ".txt" and source.is_file():
        if not isinstance(encoder, TextEncoder):
            raise ConfigError(f"--encoder: {encoder.name} takes no texts, which {source} holds; clip does")
        texts = _texts(source)
        for text in texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        statistics, of, inputs = fit_text_reference(texts, encoder), "text", len(texts)
    else:
        if encoder.media not in MEDIA:
            raise ConfigError(f"--encoder: {encoder.name} takes {encoder.media}, which no file of pictures has")
        inputs = sum(1 for _ in read_pictures(source))
        samples = _media(source, encoder, digest, progress, inputs)
        statistics, of = fit_reference(samples, encoder), encoder.media
    about = {"of": of, "inputs": digest.hexdigest(), "licence": licence, "source": origin}
    about |= {"samples": str(statistics.size), "made_by": f"diffalign {__version__}"}
    save_reference(out, statistics, encoder, about=about)
    return Fitted(out, statistics.size, about, inputs)


def _texts(file: Path) -> list[str]:
    try:
        texts = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable text file ({error})") from None
    if len(texts) < 2:
        raise DataError(f"{file}: a reference set needs at least 2 texts, one a line, got {len(texts)}")
    return texts


def _media(
    source: Path, encoder: Encoder, digest: Any, progress: Callable[[int, int], object] | None, total: int
) -> Iterator[Any]:
    for number, row in enumerate(read_pictures(source), start=1):
        try:
            digest.update(hashlib.sha256(picture_bytes(row.picture, row.id)).digest())
            medium = sample_of(row, encoder.media, f"encoder {encoder.name}").media
        except DataError as error:
            found = media_of(row.file) if number == 1 and row.file is not None else ()
            if found and encoder.media not in found:
                raise ConfigError(
                    f"--encoder: {encoder.name} takes {MEDIA[encoder.media].several}, and {row.id} is a "
                    f"{MEDIA[found[0]].one}; choose an encoder of {MEDIA[found[0]].several}: docs/set_rewards.md"
                ) from None
            raise DataError(f"{error}; every sample counts in a reference set: mend it, or move it away") from None
        yield medium
        if progress is not None:
            progress(number, total)
