"""RapidOCR as a function from pixels to lines of text: its wheel's models, no network, nothing printed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.exceptions import ConfigError, DataError, MissingExtraError
from diffalign.rewards.pictures import Pixels

MODELS = "PP-OCRv6-small"
Lines = Sequence[tuple[str, float]]  # text and confidence, in reading order: from the top, then from the left
_DETECTION, _RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
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
    for name in (_DETECTION, _RECOGNITION):
        if not (home / name).is_file():  # rapidocr would download it
            raise ConfigError(
                f"ocr: the installed rapidocr has no {name}, so that its scores would be others; "
                'pip install -U "diffalign[ocr]"'
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
