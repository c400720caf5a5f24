"""What a comparison says of one reward: means, the difference with its interval, wins; of its components the same means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.statistics import outcomes, paired_means, prompt_means, win_rate
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import RewardOutput, RewardSpec
from diffalign.rewards.functional import corrected_score

Sides = tuple[RewardOutput, RewardOutput]  # base, aligned


def reward_figures(spec: RewardSpec, scores: Sides, prompts: Sequence[str], config: EvaluationConfig) -> dict[str, Any]:
    """Figures over prompts, of the pictures that both models' scores are finite of.

    Returns:
        `unit`, `range`, `scored`, `unscored` and `reasons`. Where anything was scored also `base_mean`, `aligned_mean`,
        `difference` with `low` and `high`, `wins`, `ties`, `losses` over pictures, `win_rate` with its interval over
        prompts, and `components`: of each that the reward gives, `scored` and those five means, where it is finite.
    """
    base, aligned = (_numbers(side.values) for side in scores)
    paired = np.isfinite(base) & np.isfinite(aligned)
    reasons = Counter(reason for side in scores for reason in side.reasons if reason is not None)
    facts: dict[str, Any] = {
        "unit": spec.unit,
        "range": [plain_number(bound) for bound in spec.range],
        "scored": int(paired.sum()),
        "unscored": int((~paired).sum()),
        "reasons": dict(reasons),
    }
    means = mean_figures(base, aligned, prompts, config)
    if not means:
        return facts
    differences = aligned[paired] - base[paired]
    wins = win_rate(prompt_means(outcomes(differences), list(compress(prompts, paired))), confidence=config.confidence)
    facts |= means | {
        "wins": int((differences > 0).sum()),
        "ties": int((differences == 0).sum()),
        "losses": int((differences < 0).sum()),
        "win_rate": wins.value,
        "win_rate_low": wins.low,
        "win_rate_high": wins.high,
    }
    parts = _components(scores, prompts, config)
    return facts | ({"components": parts} if parts else {})


def mean_figures(
    base: NDArray[np.float64], aligned: NDArray[np.float64], prompts: Sequence[str], config: EvaluationConfig
) -> dict[str, float]:
    """Means over prompts, and their difference with its interval, of the pictures whose both figures are finite.

    Args:
        base, aligned: a figure of each picture; NaN where it has none.
        prompts: of the pictures.
        config: of the bootstrap.

    Returns:
        `base_mean`, `aligned_mean`, `difference`, `low`, `high`; nothing where no picture has both.
    """
    paired = np.isfinite(base) & np.isfinite(aligned)
    if not paired.any():
        return {}
    told = list(compress(prompts, paired))
    means = paired_means(
        base[paired], aligned[paired], told, confidence=config.confidence, resamples=config.resamples, seed=config.seed
    )
    return {"base_mean": means.base, "aligned_mean": means.aligned} | means.change


def corrected_figures(
    scores: Mapping[str, Sides], prompts: Sequence[str], config: EvaluationConfig
) -> dict[str, Any] | None:
    """The trained reward discounted by a quality term: `rewards.functional.corrected_score`, per prompt.

    Raises:
        ConfigError: the quality term does not lie in [0, 1].
    """
    if config.quality is None or config.trained_reward is None:
        return None
    judge, _, component = config.quality.partition(".")
    corrected = []
    for reward, quality in zip(scores[config.trained_reward], scores[judge], strict=True):
        ones_to_fives = 1 + 4 * quality.components[component].double()
        try:
            corrected.append(corrected_score(reward.values.double(), ones_to_fives).numpy())
        except DataError:
            raise ConfigError(
                f"evaluation.quality: must be a component in [0, 1], and {config.quality} is not; "
                "take another, or leave it out"
            ) from None
    base, aligned = corrected
    means = mean_figures(base, aligned, prompts, config)
    if not means:
        return None
    return {
        "reward": config.trained_reward,
        "quality": config.quality,
        "formula": "r (u - 3) + 0.2, where u = 1 + 4 quality",
    } | means


def plain_number(value: Tensor | float) -> float | None:
    """For JSON, which has no NaN and no infinity."""
    number = float(value)
    return number if np.isfinite(number) else None


def _components(scores: Sides, prompts: Sequence[str], config: EvaluationConfig) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in scores[0].components:
        if name not in scores[1].components:
            continue
        base, aligned = (_numbers(side.components[name]) for side in scores)
        if means := mean_figures(base, aligned, prompts, config):
            found[name] = {"scored": int((np.isfinite(base) & np.isfinite(aligned)).sum())} | means
    return found


def _numbers(values: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values.double().numpy()
    return numbers
