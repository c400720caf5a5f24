"""Several rewards as one: their mean, the worst of them, or the mean less their disagreement."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.protocol import PER_SAMPLE, BatchReward, Judged, Reward, RewardSpec, Sample

Combine = Literal["mean", "worst", "uncertainty"]


def combine_rewards(
    values: Float[Tensor, "rewards batch"],
    combine: Combine = "mean",
    *,
    weights: Sequence[float] | None = None,
    penalty: float = 0.5,
) -> Float[Tensor, " batch"]:
    """One value a sample from several rewards on one scale; NaN where one of them is.

    Args:
        values: one row a reward.
        combine: `mean` (weighted), `worst` (WCO: the least), or `uncertainty` (UWO: the weighted mean less `penalty` times
            the weighted population variance over the rewards).
        weights: one a reward, not negative, used in proportion; None: equal ones. `worst` takes none.
        penalty: the lambda of `uncertainty`, 0 or above; the authors' is 0.5 for best-of-n.

    Source: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization".
    """
    if combine == "worst":
        return torch.where(values.isnan().any(0), torch.nan, values.amin(0))
    share = torch.ones(len(values)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    share = (share / share.sum()).to(values)[:, None]
    mean = (share * values).sum(0)
    return mean if combine == "mean" else mean - penalty * (share * (values - mean).square()).sum(0)


class RewardEnsemble(BatchReward):
    """Several rewards as one reward: usable wherever one is.

    A sample that one of them cannot score is unscored. Components: the members' values, as they are before `scale`.

    Example:
        `RewardEnsemble([load_reward("scene", form="graded"), load_reward("jpeg")]).fitted(samples)`
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        *,
        combine: Combine = "mean",
        weights: Sequence[float] | None = None,
        penalty: float = 0.5,
        scale: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        """Put rewards together.

        Args:
            rewards: two or more.
            combine, weights, penalty: as in `combine_rewards`.
            scale: per reward what becomes 0 and what a distance of 1 is (a mean and a standard deviation); None: the values
                as they are, which says something only of rewards on one scale. `fitted` finds it.

        Raises:
            ConfigError: names the argument.
        """
        strange = (
            [each for each in rewards if not isinstance(each, Reward)]
            if isinstance(rewards, list | tuple)
            else [rewards]
        )
        if strange:
            name = f"load_reward({strange[0]!r})" if isinstance(strange[0], str) else "load_reward(NAME)"
            raise ConfigError(
                f"rewards: must be a list of rewards, as {name} makes one, got {type(strange[0]).__name__}"
                f"{'' if strange[0] is rewards else ' in it'}"
            )
        if len(rewards) < 2:
            raise ConfigError(f"rewards: an ensemble needs two or more, got {len(rewards)}")
        if combine not in get_args(Combine):
            raise ConfigError(f"combine: must be one of {', '.join(get_args(Combine))}, got {combine!r}")
        if weights is not None and (combine == "worst" or len(weights) != len(rewards)):
            why = (
                "worst takes none"
                if combine == "worst"
                else f"must be {len(rewards)}, one a reward, got {len(weights)}"
            )
            raise ConfigError(f"weights: {why}")
        if weights is not None and not (all(weight >= 0 for weight in weights) and 0 < sum(weights) < math.inf):
            raise ConfigError(f"weights: must be finite, not negative, and one of them above 0, got {list(weights)}")
        if not 0 <= penalty < math.inf:
            raise ConfigError(f"penalty: must be finite and not negative (it would reward disagreement), got {penalty}")
        if scale is not None and (len(scale) != len(rewards) or not all(spread > 0 for _, spread in scale)):
            raise ConfigError(f"scale: must be {len(rewards)} pairs (mean, standard deviation > 0), got {list(scale)}")
        self.rewards, self.combine, self.weights, self.penalty = tuple(rewards), combine, weights, penalty
        self.scale = None if scale is None else tuple(scale)
        self.names = self.components = _distinct([reward.spec.name for reward in rewards])
        self.spec = self._spec()

    def fitted(self, samples: Sequence[Sample]) -> RewardEnsemble:
        """The same with every member's scale pinned to its mean and standard deviation over these samples.

        Raises:
            DataError: a reward scores them all alike, or fewer than two.
        """
        scale = []
        for name, reward in zip(self.names, self.rewards, strict=True):
            values = reward.score(samples).values
            values = values[~values.isnan()].double()
            spread = values.std(correction=0).item() if len(values) > 1 else 0.0
            if not spread > 0:
                raise DataError(
                    f"{name}: no two of {len(samples)} samples have different scores; give others to fit on"
                )
            scale.append((values.mean().item(), spread))
        return RewardEnsemble(
            self.rewards, combine=self.combine, weights=self.weights, penalty=self.penalty, scale=scale
        )

    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        seen = [replace(sample, media=medium) for medium, sample in zip(media, samples, strict=True)]
        outputs = [reward.score(seen) for reward in self.rewards]
        raw = torch.stack([output.values for output in outputs])
        centre, spread = (
            torch.tensor([pair[place] for pair in self.scale or [(0.0, 1.0)] * len(raw)])[:, None] for place in (0, 1)
        )
        values = combine_rewards((raw - centre) / spread, self.combine, weights=self.weights, penalty=self.penalty)
        judged: list[Judged] = []
        for place, (value, parts) in enumerate(zip(values.tolist(), raw.T.tolist(), strict=True)):
            whys = [(name, output.reasons[place]) for name, output in zip(self.names, outputs, strict=True)]
            reason = next((f"{name}: {why}" for name, why in whys if why is not None), None)
            judged.append((value, dict(zip(self.names, parts, strict=True))) if reason is None else reason)
        return judged

    def _spec(self) -> RewardSpec:
        specs = [reward.spec for reward in self.rewards]
        for spec in specs:
            if spec.media != specs[0].media or spec.level not in PER_SAMPLE:
                raise ConfigError(
                    f"rewards: {spec.name} looks at {spec.media} ({spec.level}), and cannot stand beside the others"
                )
        said = [f"{spec.name} {spec.version}" for spec in specs]
        version = hashlib.sha256(repr((said, self.combine, self.weights, self.penalty, self.scale)).encode())
        return RewardSpec(
            name="+".join(self.names),
            version=f"{self.combine}-{version.hexdigest()[:12]}",
            media=specs[0].media,
            level="instance",
            unit="1",
            range=(-math.inf, math.inf),
            differentiable=False,
            licence=", ".join(dict.fromkeys(spec.licence for spec in specs)),
            needs=tuple(dict.fromkeys(need for spec in specs for need in spec.needs)),
            reads=tuple(dict.fromkeys(each for spec in specs for each in spec.reads)),
            source='Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization"',
            deterministic=all(spec.deterministic for spec in specs),
            grouped=any(spec.grouped for spec in specs),
        )


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """A number behind those that stand there twice."""
    return tuple(
        name if names.count(name) == 1 else f"{name}-{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    )
