"""Networks in ONNX files, run by onnxruntime on the CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from diffalign.exceptions import MissingExtraError


@cache
def onnx_session(file: Path, reward: str, threads: int = 1) -> Any:
    """The network in `file`, ready to run; once for all who ask with the same words.

    Args:
        reward: whose network it is, for the message.
        threads: of one run. Results do not depend on them beyond rounding.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError(
            f"the {reward} reward needs 'onnxruntime'; install it with: pip install 'diffalign[audio]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: the old files come with warnings about their own age
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
