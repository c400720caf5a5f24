"""Rendered text as a reward: is the text that the prompt quotes read in the picture?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards._text_reader import Lines, load_reader, reader_version
from diffalign.rewards.edit_distance import compared_text, text_distance
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward, own_version

__all__ = ["OCRReward", "quoted_text"]


class OCRReward(SampleReward):
    """How much of the text between the prompt's double quotes a recogniser reads in the picture.

    `1 - d / L`: L letters of the wanted text, d of them wrong. All lines that are read count as one text. d is 0 if the
    wanted text stands in it, else their edit distance, but at most L. Spaces and case do not count.

    Range: [0, 1]; 0 also where nothing is read. Higher is better. Components: distance (d), target_length (L) and
    recognised_length, in letters. Differentiable: no. The recogniser, RapidOCR with the models of its wheel, is loaded at
    the first call (extra `ocr`); it runs on the CPU.
    Source: Liu et al. 2025, "Flow-GRPO: Training Flow Matching Models via Online RL", and its code. Ours reads with
    RapidOCR in PaddleOCR's place; a recogniser that fails leaves the sample unscored, where theirs gives 0.

    Example:
        `OCRReward()(pictures, ['a street sign that says "Hello"'])`
    """

    components = ("distance", "target_length", "recognised_length")

    def __init__(
        self,
        *,
        without_quotes: Literal["refuse", "whole_prompt"] = "refuse",
        nfkc: bool = True,
        least_confidence: float = 0.0,
        detection_side: int = 320,
        threads: int = 1,
        read: Callable[[Pixels], Lines] | None = None,
        read_version: str | None = None,
    ) -> None:
        """Say how to read and compare.

        Args:
            without_quotes: prompts without a pair of double quotes are not scored, or all of their text is wanted.
            nfkc: full-width letters and ligatures count as plain ones; False as Flow-GRPO compares.
            least_confidence: 0 to 1; lines of less do not count, nor ones of 0.
            detection_side: pixels, 64 or more; text is looked for in the picture shrunk to this, and read at full size.
            threads: of the recogniser.
            read: another recogniser, from uint8 [height, width, 3] (RGB) to lines of text, each with its confidence.
            read_version: what kept scores know it by, to be changed with it; None: they end with this object.

        Raises:
            ConfigError: names the argument.
        """
        if without_quotes not in ("refuse", "whole_prompt"):
            raise ConfigError(f"ocr.without_quotes: must be 'refuse' or 'whole_prompt', got {without_quotes!r}")
        if not 0 <= least_confidence <= 1:
            raise ConfigError(f"ocr.least_confidence: must lie in [0, 1], got {least_confidence}")
        if detection_side < 64 or threads < 1:
            seen = f"{detection_side} and {threads}"
            raise ConfigError(f"ocr: detection_side must be >= 64 and threads >= 1, got {seen}")
        self.without_quotes, self.nfkc, self.least_confidence = without_quotes, nfkc, least_confidence
        self.detection_side, self.threads, self._read = detection_side, threads, read
        reader = f"{reader_version()}-{detection_side}" if read is None else own_version(read_version)
        self.spec = RewardSpec(
            name="ocr",
            version=f"1-{reader}-c{least_confidence:g}-{without_quotes}-{'nfkc' if nfkc else 'raw'}",
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 1.0),
            differentiable=False,
            licence="Apache-2.0; RapidOCR and PaddleOCR's models, which it reads with, too",
            needs=("prompt",),
            source='Liu et al. 2025, "Flow-GRPO: Training Flow Matching Models via Online RL"',
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        target = compared_text(self._target(sample.prompt), nfkc=self.nfkc)
        if not target:
            raise DataError(
                f"the prompt {sample.prompt!r} asks for no text: there is none between its first double quotes"
            )
        read = load_reader(self.detection_side, self.threads) if self._read is None else self._read
        lines = [text for text, sure in read(pixels) if sure > 0 and sure >= self.least_confidence]
        recognised = compared_text("".join(lines), nfkc=self.nfkc)
        distance = text_distance(recognised, target)
        parts = {
            "distance": float(distance),
            "target_length": float(len(target)),
            "recognised_length": float(len(recognised)),
        }
        return 1 - distance / len(target), parts

    def _target(self, prompt: str) -> str:
        quoted = quoted_text(prompt)
        if quoted is None and self.without_quotes == "refuse":
            raise DataError(
                f"the prompt {prompt!r} has no text between straight double quotes; write for example "
                "'a sign that says \"Hello\"', or set without_quotes to whole_prompt"
            )
        return prompt if quoted is None else quoted


def quoted_text(prompt: str) -> str | None:
    """What stands between the first two straight double quotes; None where there are not two."""
    parts = prompt.split('"', 2)
    return parts[1] if len(parts) == 3 else None
