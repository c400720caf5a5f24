"""What a vision-language model is asked about a picture, and how its answer is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.exceptions import DataError

_DIGITS = r"-?\d+(?:\.\d+)?"
_LONGEST = 20_000  # characters of an answer that are searched: its end
_SHOWN = 120  # characters of an answer that a reason quotes
LIKELIEST = 20  # first tokens whose probabilities are asked for, which is the most that OpenAI's endpoint tells


@dataclass(frozen=True)
class Style:
    """A question and the reading of its answer.

    Attributes:
        question: with {prompt} where the sample's prompt goes.
        pattern: a regular expression whose groups are numbers; None: the probability of yes is read.
        scale: the numbers that become 0 and 1.
    """

    question: str
    pattern: str | None
    scale: tuple[float, float] = (1.0, 5.0)


_RUBRIC = """This picture was made for the following text.

Text: {prompt}

Judge how well it shows what the text says, and how well it is made. Scores: 1 it shows something else or cannot be \
recognised; 2 most of the text is missing or wrong; 3 the main thing is there, with clear mistakes; 4 all is there, with \
small flaws; 5 all is there and nothing is wrong.
Say in one or two sentences what is right and wrong. Then end with a line of this form, and nothing after it:
Score: N"""
_YES_NO = """Text: {prompt}

Does this picture show what the text says? Answer Yes or No."""
# The words that the models were trained on, from CodeGoat24/UnifiedReward, folder inference_qwen:
# image_generation/qwen_point_score_image_generation.py and UnifiedReward-2.0-inference/point_score_ACS_image_generation.py.
# Flow-GRPO (flow_grpo/rewards.py) asks the first without the sentence on key elements, and divides the score by 5.
_UNIFIED = """You are given a text caption and a generated image based on that caption. Your task is to evaluate this \
image based on two key criteria:
1. Alignment with the Caption: Assess how well this image aligns with the provided caption. Consider the accuracy of \
depicted objects, their relationships, and attributes as described in the caption.
2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, color \
accuracy, and overall aesthetic appeal.
Extract key elements from the provided text caption, evaluate their presence in the generated image using the format: \
'element (type): value' (where value=0 means not generated, and value=1 means generated), and assign a score from 1 to 5 \
after 'Final Score:'.
Your task is provided as follows:
Text Caption: [{prompt}]"""
_UNIFIED_2 = """You are presented with a generated image and its associated text caption. Your task is to analyze the \
image across multiple dimensions in relation to the caption. Specifically:
Provide overall assessments for the image along the following axes (each rated from 1 to 5):
- Alignment Score: How well the image matches the caption in terms of content.
- Coherence Score: How logically consistent the image is (absence of visual glitches, object distortions, etc.).
- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.

Output your evaluation using the format below:

Alignment Score (1-5): X
Coherence Score (1-5): Y
Style Score (1-5): Z

Your task is provided as follows:
Text Caption: [{prompt}]"""
_ASPECTS = [rf"{name} Score \(1-5\):\s*(?P<{name.lower()}>{_DIGITS})" for name in ("Alignment", "Coherence", "Style")]

STYLES: dict[str, Style] = {
    "rubric": Style(_RUBRIC, rf"(?i)score[*\s]*:[*\s]*({_DIGITS})"),
    "yes_no": Style(_YES_NO, None),
    "unified_reward": Style(_UNIFIED, rf"Final Score:\s*({_DIGITS})"),
    "unified_reward_2": Style(_UNIFIED_2, "(?s)" + ".{0,200}?".join(_ASPECTS)),
}


def read_numbers(answer: str, pattern: str, scale: tuple[float, float]) -> tuple[float, dict[str, float]]:
    """The mean of the numbers of the pattern's last match, mapped so that `scale` becomes 0 and 1.

    Returns:
        The value, and as components `answer`, the mean as it was told, and each named group's number.

    Raises:
        DataError: no match, or a number out of the scale; quotes the answer.
    """
    match = None
    for match in re.finditer(pattern, answer[-_LONGEST:]):  # noqa: B007 (the last one)
        pass
    if match is None:
        raise DataError(f"no score stands in the answer {shown(answer)}")
    low, high = scale
    numbers = []
    for group in match.groups():
        try:
            numbers.append(float(group))
        except (TypeError, ValueError):
            raise DataError(f"{group!r} is no number in the answer {shown(answer)}") from None
    if not all(low <= number <= high for number in numbers):
        raise DataError(f"a score is not from {low:g} to {high:g} in the answer {shown(answer)}")
    mean = math.fsum(numbers) / len(numbers)
    parts = {name: float(number) for name, number in match.groupdict().items()}
    return (mean - low) / (high - low), {"answer": mean, **parts}


def read_yes(first_tokens: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, float]]:
    """The probability of yes among yes and no, from the likeliest first tokens and their log-probabilities.

    Case, spaces and marks do not count: what "Yes", " yes" and "YES" have is added up. A word that is not among the tokens
    counts as 0.

    Returns:
        The value, and as component `mass` how probable yes and no are together.

    Raises:
        DataError: neither is there; says what is.
    """
    mass = {"yes": 0.0, "no": 0.0}
    for each in first_tokens:
        word = re.sub(r"[^a-z]", "", str(each["token"]).lower())
        if word in mass:
            mass[word] += math.exp(min(float(each["logprob"]), 0.0))
    both = mass["yes"] + mass["no"]
    if not both > 0:
        told = ", ".join(repr(each["token"]) for each in first_tokens[:5])
        raise DataError(f"neither yes nor no is among the likeliest first words of the answer, which are {told}")
    return mass["yes"] / both, {"mass": both}


def shown(answer: str) -> str:
    """The beginning of an answer, for a message."""
    text = " ".join(answer.split())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
