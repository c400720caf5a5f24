"""RapidOCR as a function from pixels to lines of text: its wheel's models, no network, nothing printed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.exceptions import ConfigError, DataError, MissingExtraError
from diffalign.rewards.pictures import Pixels

_NAME = "PP-OCRv6-small"
Lines = Sequence[tuple[str, float]]  # text and confidence, in reading order: from the top, then from the left
_DETECTION, _RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_MODELS = {  # SHA-256 of the files in rapidocr 3.10.0's wheel
    _DETECTION: "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    _RECOGNITION: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
}
_GRID = 32  # pixels: the detector sees pictures whose sides are multiples, rounded


def check_installed() -> None:
    """Whether the extra is there, without loading it.

    Raises:
        MissingExtraError: it is not; names it.
    """
    missing = [name for name in ("rapidocr", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'the ocr reward needs {" and ".join(missing)}; install with: pip install "diffalign[ocr]"'
        )


def reader_version() -> str:
    """Changes with the models, and with the RapidOCR that makes lines of what they find."""
    try:
        return f"{_NAME}-rapidocr-{importlib.metadata.version('rapidocr')}"
    except importlib.metadata.PackageNotFoundError:  # then nothing is read
        return _NAME


@cache
def load_reader(detection_side: int, threads: int) -> Callable[[Pixels], Lines]:
    """The recogniser with these settings: one for all rewards that have them.

    Args:
        detection_side: pixels; a picture whose longest side is longer is shrunk to it where text is looked for. What is
            found is read at the picture's full size.
        threads: of onnxruntime.

    Raises:
        MissingExtraError: rapidocr or onnxruntime is not installed.
        ConfigError: another version of rapidocr, without these models.
    """
    check_installed()
    import rapidocr

    home = Path(rapidocr.__file__).parent / "models"
    for name, digest in _MODELS.items():
        file = home / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:  # it would download it
            raise ConfigError(
                f"ocr: the installed rapidocr has not the {name} that scores are defined by, so that its scores would be "
                'others; pip install -U "diffalign[ocr]"'
            )
    engine = rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",  # "nothing found" is a warning to it
            "Global.use_cls": False,  # lines are not turned round
            "Global.text_score": 0.0,
            "Det.model_path": str(home / _DETECTION),
            "Det.limit_type": "max",  # only ever shrinks
            "Det.limit_side_len": detection_side,
            "Rec.model_path": str(home / _RECOGNITION),
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )

    def read(pixels: Pixels) -> Lines:
        """The lines in a picture.

        Raises:
            DataError: the recogniser failed.
        """
        height, width = pixels.shape[:2]
        if width * detection_side // height < _GRID // 2 + 1 and height > width:
            raise DataError(f"the picture ({width} x {height} pixels) is too narrow for text to be found in it")
        try:
            found: Any = engine(np.ascontiguousarray(pixels[..., ::-1]))  # it takes arrays for BGR
        except Exception as error:  # onnxruntime's and OpenCV's own
            raise DataError(f"the text recogniser failed: {type(error).__name__}: {str(error)[-300:]}") from error
        return list(zip(found.txts or (), found.scores or (), strict=True))

    return read
