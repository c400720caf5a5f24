"""Scores that are kept in a folder, by what the sample holds: what was scored once is not scored again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sqlite3
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.pictures import reference_pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.remote_reward import without_gradients
from diffalign.rewards.wire import plain_metadata
from diffalign.rewards.wire_media import pack_medium

_log = logging.getLogger(__name__)

FILE = "scores.sqlite"
_PATIENCE = 60.0  # seconds to wait for another process that writes
_KEYS = 500  # in one question; SQLite takes 999 at least


def score_key(spec: RewardSpec, prompt: str, media: str, reference: str = "", metadata: str = "") -> str:
    """Changes with the reward's version and the medium's digest; with the prompt and so on where the reward needs them."""
    seen = {*spec.needs, *spec.reads}
    told: tuple[str, ...] = (spec.name, spec.version, prompt if "prompt" in seen else "", media)
    told += (reference,) if "reference" in seen else ()
    told += (metadata,) if "metadata" in seen else ()
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def medium_digest(medium: Any) -> str:
    """Of a medium in the form in which it is judged: its kind, plain facts, and numbers with their shape."""
    packed = pack_medium(medium)
    told = hashlib.sha256(json.dumps(packed.facts, sort_keys=True).encode())
    for array in packed.arrays:
        told.update(f"{array.dtype} {array.shape}".encode())
        told.update(array.tobytes())
    return told.hexdigest()


def sample_key(spec: RewardSpec, medium: Any, sample: Sample) -> str:
    """The key of a sample whose medium is in the form in which it is judged.

    Raises:
        DataError: the reward needs a reference that cannot be read, or metadata that are not JSON.
    """
    reference = medium_digest(reference_pixels(sample.metadata)) if "reference" in spec.needs else ""
    looks = "metadata" in {*spec.needs, *spec.reads}
    metadata = json.dumps(plain_metadata(sample.metadata), sort_keys=True) if looks else ""
    return score_key(spec, sample.prompt, medium_digest(medium), reference, metadata)


class CachedReward(BatchReward):
    """A reward that asks another one only for what is not known yet.

    Attributes:
        asked: samples so far.
        known: how many of them were known.
    """

    def __init__(self, reward: BatchReward, folder: Path | str) -> None:
        """Open the folder; arguments as in `cached`."""
        if reward.spec.grouped:
            raise ConfigError(
                f"{reward.spec.name}.cache: its scores go by the others of their group, so that none can be kept"
            )
        self.reward, self.components = reward, reward.components
        self.spec = without_gradients(reward.spec)
        self._scores = _Scores(Path(folder), reward.spec.name)
        self._counts: Counter[str] = Counter()
        if not reward.spec.deterministic:
            _log.info("%s may score a sample otherwise the next time; %s keeps the first", reward.spec.name, folder)
        weakref.finalize(self, _tell, reward.spec.name, self._counts)

    @property
    def asked(self) -> int:
        return self._counts["asked"]

    @property
    def known(self) -> int:
        return self._counts["known"]

    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        keys = [self._key(medium, sample) for medium, sample in zip(media, samples, strict=True)]
        found = self._scores.read([key for key in keys if key is not None])
        # of samples that are the same, one is judged; one without a key is judged, and has the reason why by then
        new: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key is None or key not in found:
                new.setdefault(key or str(place), place)
        self._counts.update(asked=len(samples), known=len(samples) - len(new))
        _log.debug("%s: %d of %d samples were known", self.spec.name, len(samples) - len(new), len(samples))
        places = list(new.values())
        judged = self.reward.judge_all([media[place] for place in places], [samples[place] for place in places])
        fresh = dict(zip(new, judged, strict=True))
        self._scores.add({key: each for key, each in fresh.items() if keys[new[key]] is not None})
        known = found | fresh
        return [known[str(place) if key is None else key] for place, key in enumerate(keys)]

    def _key(self, medium: Any, sample: Sample) -> str | None:
        try:
            return sample_key(self.spec, medium, sample)
        except DataError:
            return None


class _Scores:
    """The file: a connection for each call, so that processes, threads and forks may share the folder."""

    def __init__(self, folder: Path, reward: str) -> None:
        self._file, self._reward, self._broken = folder / FILE, reward, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as file, file:
                file.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL, components TEXT)")
                file.execute("SELECT key, value, components FROM scores LIMIT 1")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{reward}.cache: {self._file} cannot be used: {error}; give another folder") from None

    def read(self, keys: Sequence[str]) -> dict[str, Judged]:
        """What is known of them."""
        found: dict[str, Judged] = {}
        try:
            with closing(self._open()) as file:
                for first in range(0, len(keys), _KEYS):
                    part = keys[first : first + _KEYS]
                    marks = ",".join("?" * len(part))
                    rows = file.execute(f"SELECT key, value, components FROM scores WHERE key IN ({marks})", part)
                    found |= {key: (value, _parts(told)) for key, value, told in rows}
        except (sqlite3.Error, ValueError) as error:
            self._warn(error)
        return found

    def add(self, judged: Mapping[str, Judged]) -> None:
        """Keep them; what failed may not fail again."""
        rows = [
            (key, each[0], json.dumps({name: part if math.isfinite(part) else None for name, part in each[1].items()}))
            for key, each in judged.items()
            if not isinstance(each, str) and math.isfinite(each[0])
        ]
        if not rows:
            return
        try:
            with closing(self._open()) as file, file:
                file.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._warn(error)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=_PATIENCE)

    def _warn(self, error: Exception) -> None:
        """Once: a full disk or a broken file costs time, and no score."""
        if not self._broken:
            _log.warning("%s: scores are not kept: %s: %s", self._reward, self._file, error)
        self._broken = True


def _parts(told: str) -> dict[str, float]:
    return {name: math.nan if part is None else float(part) for name, part in json.loads(told).items()}


def _tell(name: str, counts: Counter[str]) -> None:
    if counts["asked"]:
        _log.info("%s: %d of %d scores came from the cache", name, counts["known"], counts["asked"])


def cached(reward: BatchReward, folder: Path | str) -> CachedReward:
    """The same reward with a memory: values and components are equal with and without it.

    Of a reward that is not deterministic, such as a judge behind an endpoint, the first score of a sample is kept, and is
    its score as long as the folder lasts: what is paid for is paid once. To see how its scores scatter, leave it out.

    The key is the reward's name and version, the medium's numbers and shape, and the prompt, the reference and the metadata
    where the reward needs them. What could not be scored is not kept. Several processes may share a folder, and several
    rewards; the file in it, scores.sqlite, may be deleted at any time.

    Args:
        reward: of single samples.
        folder: made where it is not there.

    Raises:
        ConfigError: the folder cannot be used, or the reward's scores go by the other samples of a call.
    """
    return CachedReward(reward, folder)
