"""Checks that any reward can go through: yours too.

from diffalign.rewards import self_test
for check in self_test(my_reward):
    print(check.name, check.passed, check.detail)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.media import Audio, Video
from diffalign.rewards.pictures import as_pixels
from diffalign.rewards.protocol import Reward, RewardOutput, Sample
from diffalign.rewards.selftest_checks import Check, NotApplicable, TestFailure, cut, run_checks
from diffalign.rewards.selftest_gradient import Differentiable, check_gradient, check_tensor
from diffalign.rewards.selftest_samples import MAKERS, examples_for, other_sizes
from diffalign.rewards.selftest_sets import set_checks
from diffalign.rewards.selftest_wire import check_wired
from diffalign.rewards.set_protocol import SetReward
from diffalign.sim import Mesh

_UNICODE = ("Ж 漢字 العربية", "👩🏽‍🚀 \u200f\u0000", "é" * 2000, "a\ud800b")


def self_test(
    reward: Reward | SetReward, samples: Sequence[Sample] | None = None, *, tolerance: float = 1e-4
) -> list[Check]:
    """Try a reward out: does it give one number for one sample, whatever the batch, the form and the surroundings?

    Args:
        reward: any.
        samples: two or more that it can score, each as `Sample` has it; None: random ones of its medium, with prompts and
            references where it needs these.
        tolerance: by how much two numbers that should be one may differ, as a share of the largest value (1 at least):
            models differ in the last digits with the number of samples beside.

    Returns:
        One check after the other, none of which raises. Of the instance level: examples, range, determinism, batch order,
        batch size, call, forms, sizes, empty prompt, unicode prompt, not finite, wrong medium, in a process, precision,
        device, gradient, score_tensor. Of sets: see `selftest_sets`.

    Raises:
        ConfigError: it needs what nobody can guess (metadata, features), and no samples were given.
    """
    if isinstance(reward, SetReward):
        return run_checks(set_checks(reward, samples, tolerance))
    trial = _Trial(reward, examples_for(reward.spec) if samples is None else list(samples), tolerance)
    return run_checks(trial.checks())


class _Trial:
    def __init__(self, reward: Reward, samples: Sequence[Sample], tolerance: float) -> None:
        self.reward, self.samples, self.tolerance = reward, list(samples), tolerance
        self._known: Tensor | None = None

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("examples", self.examples),
            ("range", self.range),
            ("determinism", self.determinism),
            ("batch order", self.batch_order),
            ("batch size", self.batch_size),
            ("call", self.call),
            ("forms", self.forms),
            ("sizes", self.sizes),
            ("empty prompt", lambda: self.prompts([""])),
            ("unicode prompt", lambda: self.prompts(_UNICODE)),
            ("not finite", self.not_finite),
            ("wrong medium", self.wrong_medium),
            ("in a process", lambda: check_wired(self.reward, self.samples, self.same)),
            ("precision", self.precision),
            ("device", self.device),
            ("gradient", lambda: check_gradient(*self.differentiable())),
            ("score_tensor", lambda: check_tensor(*self.differentiable(), self.values)),
        ]

    @property
    def values(self) -> Tensor:
        """Of the samples."""
        if self._known is None:
            self._known = self.reward.score(self.samples).values
        return self._known

    def same(self, seen: Tensor, wanted: Tensor, what: str) -> str:
        if seen.shape != wanted.shape:
            raise TestFailure(f"{what}: {list(seen.shape)} values for {list(wanted.shape)}")
        if not torch.equal(seen.isnan(), wanted.isnan()):
            raise TestFailure(f"{what}: other samples are unscored")
        if not self.reward.spec.deterministic:
            return "not compared: its spec says that it is not deterministic"
        apart = (seen - wanted).abs().nan_to_num(0).max().item() if len(seen) else 0.0
        limit = self.tolerance * max(1.0, float(wanted.nan_to_num(0).abs().max()))
        if not apart <= limit:
            raise TestFailure(f"{what}: values differ by up to {apart:.3g}, and may by {limit:.3g}")
        return f"differ by {apart:.2g} at most" if apart else "equal"

    def scored_or_said(self, samples: Sequence[Sample], what: str) -> RewardOutput:
        """Every sample has a value or a reason."""
        output = self.reward.score(samples)
        if len(output.values) != len(samples) or len(output.reasons) != len(samples):
            raise TestFailure(f"{what}: {len(output.values)} values for {len(samples)} samples")
        for value, reason in zip(output.values.tolist(), output.reasons, strict=True):
            if math.isnan(value) and not reason:
                raise TestFailure(f"{what}: NaN without a reason")
            if not math.isnan(value) and reason:
                raise TestFailure(f"{what}: a value ({value:.4g}) and a reason ({reason})")
        return output

    def examples(self) -> str:
        output = self.scored_or_said(self.samples, "examples")
        if output.values.dtype != torch.float32 or output.values.device.type != "cpu":
            raise TestFailure(f"values are {output.values.dtype} on {output.values.device}, not float32 on the CPU")
        scored = int(output.values.isfinite().sum())
        if scored < min(2, len(self.samples)):
            why = next((reason for reason in output.reasons if reason), "no reason")
            raise TestFailure(f"{scored} of {len(self.samples)} samples scored: {why}; give samples that it can score")
        told = len(set(output.values[output.values.isfinite()].tolist()))
        return f"{scored} of {len(self.samples)} scored, {told} different values"

    def range(self) -> str:
        low, high = self.reward.spec.range
        finite = self.values[self.values.isfinite()]
        if not len(finite):
            raise NotApplicable("nothing is scored")
        least, greatest = finite.min().item(), finite.max().item()
        if least < low - self.tolerance * max(1, abs(low)) or greatest > high + self.tolerance * max(1, abs(high)):
            raise TestFailure(f"{least:.4g} to {greatest:.4g}, and its spec says {low:g} to {high:g}")
        return f"{least:.4g} to {greatest:.4g} in {low:g} to {high:g}"

    def determinism(self) -> str:
        if not self.reward.spec.deterministic:
            raise NotApplicable("its spec says that it is not deterministic")
        again = self.reward.score(self.samples).values
        if not torch.equal(again.nan_to_num(0), self.values.nan_to_num(0)):
            raise TestFailure(
                f"a second time values differ by up to {(again - self.values).abs().nan_to_num(0).max():.3g}"
            )
        return "equal"

    def batch_order(self) -> str:
        back = self.reward.score(self.samples[::-1]).values
        return self.same(back.flip(0), self.values, "in another order")

    def batch_size(self) -> str:
        alone = torch.cat([self.reward.score([sample]).values for sample in self.samples])
        if len(self.reward.score([]).values):
            raise TestFailure("an empty batch has values")
        return self.same(alone, self.values, "one by one")

    def call(self) -> str:
        prompts, facts = [sample.prompt for sample in self.samples], [sample.metadata for sample in self.samples]
        called = self.reward([sample.media for sample in self.samples], prompts, facts)
        return self.same(called, self.values, "reward(media, prompts, metadata)")

    def with_media(self, change: Callable[[Any], Any]) -> Tensor:
        return self.reward.score([replace(sample, media=change(sample.media)) for sample in self.samples]).values

    def forms(self) -> str:
        medium = self.reward.spec.media
        if medium == "image":
            pixels = [as_pixels(sample.media) for sample in self.samples]
            wanted = self.reward.score(
                [replace(sample, media=each) for sample, each in zip(self.samples, pixels, strict=True)]
            ).values
            said = [
                self.same(self.with_media(change), wanted, what)
                for what, change in (
                    ("as float arrays", lambda media: as_pixels(media).astype(np.float32) / 255),
                    ("as float tensors", _tensor),
                    ("as PIL pictures", lambda media: Image.fromarray(as_pixels(media))),
                )
            ]
            return f"uint8, float, tensor, PIL: {max(said, key=len)}"
        if medium == "audio":
            double = self.with_media(lambda media: Audio(torch.from_numpy(media.waveform).double(), media.rate))
            return f"float64 tensor: {self.same(double, self.values, 'as float64')}"
        if medium == "mesh":
            floats = self.with_media(
                lambda shape: Mesh.of(shape.vertices.astype(np.float32), shape.faces.astype(np.int32))
            )
            return f"float32 vertices: {self.same(floats, self.values, 'as float32')}"
        floats = self.with_media(lambda media: Video(media.frames.astype(np.float32) / 255, media.fps))
        return f"float frames: {self.same(floats, self.values, 'as floats')}"

    def sizes(self) -> str:
        first, makers = self.samples[0], other_sizes(self.reward.spec.media)
        samples = []
        for one in makers:
            told = {"reference": one(1)} if "reference" in self.reward.spec.needs else first.metadata
            samples.append(replace(first, media=one(0), metadata=told))
        output = self.scored_or_said(samples, "other sizes")
        again = torch.cat([self.reward.score([sample]).values for sample in samples])
        self.same(again, output.values, "other sizes one by one")
        scored = int(output.values.isfinite().sum())
        why = next((f"; one is not: {cut(reason, 100)}" for reason in output.reasons if reason), "")
        return f"{scored} of {len(samples)} scored{why}"

    def prompts(self, prompts: Sequence[str]) -> str:
        odd = [replace(self.samples[0], prompt=prompt) for prompt in prompts]
        output = self.scored_or_said([*odd, *self.samples], "with such prompts")
        self.same(output.values[len(odd) :], self.values, "samples beside them")
        scored = int(output.values[: len(odd)].isfinite().sum())
        why = next((f"; else: {cut(reason, 100)}" for reason in output.reasons[: len(odd)] if reason), "")
        return f"{scored} of {len(odd)} scored{why}"

    def unscored(self, media: Any, what: str) -> str:
        output = self.scored_or_said([replace(self.samples[0], media=media), *self.samples], what)
        if not output.values[0].isnan():
            raise TestFailure(f"{what}: scored {output.values[0].item():.4g}")
        self.same(output.values[1:], self.values, f"samples beside {what}")
        return f"{what}: {cut(str(output.reasons[0]), 140)}"

    def not_finite(self) -> str:
        if self.reward.spec.media == "image":
            lost = _tensor(self.samples[0].media).clone()
            lost[0, 0, 0] = torch.nan
            return self.unscored(lost, "a picture with NaN")
        make: Callable[[], Any] = lambda: Audio(np.array([0.0, math.nan], dtype=np.float32), 16000)  # noqa: E731
        if self.reward.spec.media == "mesh":
            make = lambda: Mesh.of(np.full((4, 3), math.nan), [[0, 1, 2], [0, 2, 3]])  # noqa: E731
        if self.reward.spec.media == "video":
            make = lambda: Video(np.full((2, 8, 8, 3), math.nan, dtype=np.float32), 8.0)  # noqa: E731
        try:
            make()
        except (DataError, ShapeError) as error:
            raise NotApplicable(f"cannot come so far: {error}") from None
        raise TestFailure("a medium with NaN can be made")

    def wrong_medium(self) -> str:
        others = [make(0) for medium, make in MAKERS.items() if medium not in (self.reward.spec.media, "image")]
        others += [None, "a text"]
        for other in others:
            self.unscored(other, f"a {type(other).__name__}")
        return f"{len(others)} others: NaN with a reason"

    def precision(self) -> str:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = self.reward.score(self.samples).values
        said = f"within bf16 autocast: {self.same(seen, self.values, 'within bf16 autocast')}"
        if self.reward.spec.media == "image":
            for dtype in (torch.float16, torch.bfloat16):
                cast = [_tensor(sample.media).to(dtype) for sample in self.samples]
                wanted = self.reward.score(
                    [replace(sample, media=as_pixels(each)) for sample, each in zip(self.samples, cast, strict=True)]
                ).values
                given = [replace(sample, media=each) for sample, each in zip(self.samples, cast, strict=True)]
                self.same(self.reward.score(given).values, wanted, f"{dtype} pictures")
            said += "; fp16 and bf16 pictures are judged as they are"
        return said

    def device(self) -> str:
        if not torch.cuda.is_available() or self.reward.spec.media != "image":
            raise NotApplicable("no CUDA here" if not torch.cuda.is_available() else "its media are not tensors")
        media = torch.stack([_tensor(sample.media) for sample in self.samples]).cuda()
        prompts, facts = [sample.prompt for sample in self.samples], [sample.metadata for sample in self.samples]
        called = self.reward(media, prompts, facts)
        if called.device.type != "cuda":
            raise TestFailure(f"of pictures on CUDA the values are on {called.device}")
        return self.same(called.cpu(), self.values, "of pictures on CUDA")

    def differentiable(self) -> tuple[Differentiable, Tensor, list[str] | Tensor]:
        """The reward, pictures, and what its `score_tensor` takes beside them: prompts, or references."""
        if not self.reward.spec.differentiable:
            raise NotApplicable("its spec says that it is not differentiable")
        if not isinstance(self.reward, Differentiable):
            raise TestFailure("its spec says that it is differentiable, and it has no score_tensor(media, prompts)")
        if self.reward.spec.media != "image":
            raise NotApplicable("checked of pictures only")
        pictures = torch.stack([_tensor(sample.media) for sample in self.samples])
        if "reference" in self.reward.spec.needs:
            return self.reward, pictures, torch.stack([_tensor(each.metadata["reference"]) for each in self.samples])
        return self.reward, pictures, [sample.prompt for sample in self.samples]


def _tensor(media: Any) -> Tensor:
    """float32 [3, height, width]."""
    return torch.from_numpy(as_pixels(media).copy()).permute(2, 0, 1).float() / 255
