"""Alarms: what in the numbers of a run says that it is going wrong.

A NaN or an infinity always stops the run. The others warn or stop as `health` in the config says, and each speaks once
until it has been quiet again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.config.run import HealthConfig
from diffalign.exceptions import DivergenceError


@dataclass(frozen=True)
class Alarm:
    """One event: which alarm, what to do about it ("warn" or "stop"), and the sentence for the user."""

    alarm: str
    action: str
    message: str


def check_finite(step: int, metrics: Mapping[str, float], record_ids: Sequence[str]) -> None:
    """Stop at the first number gone bad.

    Raises:
        DivergenceError: names the step, the metric and the records of the batch.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            shown = ", ".join(record_ids[:8]) + (", ..." if len(record_ids) > 8 else "")
            raise DivergenceError(
                f"step {step}: {name} is {value}; records of this step: {shown}. Lower optimizer.learning_rate, or look "
                "at these records; the last checkpoint is unharmed"
            )


class HealthMonitor:
    """Watches the training metrics and the rewards of the periodic samples."""

    def __init__(self, config: HealthConfig, *, trained_reward: str | None) -> None:
        self._config = config
        self._trained_reward = trained_reward
        self._recent: deque[Mapping[str, float]] = deque(maxlen=config.window)
        self._first_rewards: dict[str, Mapping[str, float]] = {}
        self._ringing: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to ring as the uninterrupted one would."""
        return {
            "recent": [dict(row) for row in self._recent],
            "first_rewards": {name: dict(row) for name, row in self._first_rewards.items()},
            "ringing": sorted(self._ringing),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._recent = deque(state["recent"], maxlen=self._config.window)
        self._first_rewards = dict(state["first_rewards"])
        self._ringing = set(state["ringing"])

    def after_step(self, metrics: Mapping[str, float]) -> list[Alarm]:
        """Feed one step's metrics; returns the alarms that begin with it."""
        self._recent.append(metrics)
        if len(self._recent) < self._config.window:
            return []
        return [*self._winner_error(), *self._saturation()]

    def after_samples(self, rewards: Mapping[str, Mapping[str, float]]) -> list[Alarm]:
        """Feed the periodic samples' figures: reward name -> mean, spread (standard deviation), count."""
        for name, figures in rewards.items():
            self._first_rewards.setdefault(name, figures)
        return self._hacking(rewards)

    def _mean(self, name: str) -> float | None:
        values = [row[name] for row in self._recent if name in row]
        return sum(values) / len(values) if values else None

    def _winner_error(self) -> list[Alarm]:
        policy, reference = self._mean("winner_error"), self._mean("reference_winner_error")
        if policy is None or not reference:
            return []
        limit = self._config.winner_error_limit
        return self._report(
            "winner_error_rising",
            self._config.winner_error_rising,
            policy > limit * reference,
            f"the policy's error on preferred samples is {policy / reference:.2f} times the reference's (limit {limit:g}) "
            f"over the last {self._config.window} steps: it is forgetting what it should prefer; raise objective.beta or "
            "lower optimizer.learning_rate",
        )

    def _saturation(self) -> list[Alarm]:
        loss = self._mean("loss")
        if loss is None or self._mean("margin") is None:
            return []
        return self._report(
            "saturation",
            self._config.saturation,
            loss < self._config.saturation_limit,
            f"the loss has averaged {loss:.4f} over the last {self._config.window} steps: the pairs are learned by heart; "
            "stop here or add data",
        )

    def _hacking(self, rewards: Mapping[str, Mapping[str, float]]) -> list[Alarm]:
        change = {name: figures["mean"] - self._first_rewards[name]["mean"] for name, figures in rewards.items()}
        trained = self._trained_reward
        if trained is None or trained not in change:
            return []
        alarms = []
        for name in sorted(rewards.keys() - {trained}):
            error = rewards[name]["spread"] / math.sqrt(max(rewards[name]["count"], 1))
            alarms += self._report(
                "reward_hacking",
                self._config.reward_hacking,
                change[trained] > 0 and change[name] < -2 * math.sqrt(2) * error,
                f"the held-out reward {name} fell by {-change[name]:.3g} while the trained reward {trained} rose by "
                f"{change[trained]:.3g}: look at the samples before going on",
                subject=name,
            )
        return alarms

    def _report(self, alarm: str, action: str, rings: bool, message: str, subject: str = "") -> list[Alarm]:
        bell = f"{alarm} {subject}".strip()
        if not rings:
            self._ringing.discard(bell)
            return []
        if action == "off" or bell in self._ringing:
            return []
        self._ringing.add(bell)
        return [Alarm(alarm, action, message)]
