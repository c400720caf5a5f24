"""Alarms: what in the numbers of a run says that it is going wrong.

A NaN or an infinity always stops the run. The others warn or stop as `health` in the config says, and each speaks once
until it has been quiet for a whole window: a figure that wavers around its limit is one event, not many.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.config.run import HealthConfig
from diffalign.exceptions import DivergenceError

_REMEDY = "raise objective.beta or lower optimizer.learning_rate"


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
                "at these records; checkpoints written before are unharmed"
            )


class HealthMonitor:
    """Watches the training metrics and the rewards of the periodic samples."""

    def __init__(self, config: HealthConfig, *, trained_reward: str | None, unbounded: bool = False) -> None:
        """Begin to watch.

        Args:
            unbounded: whether the loss has no lower bound: then a winner error that rises, and a volume that drifts, stop
                the run, unless the config says what they do.
        """
        self._config = config
        wish = config.winner_error_rising
        self._winner_action = wish if wish != "auto" else "stop" if unbounded else "warn"
        self._unbounded = unbounded
        self._first_winner: float | None = None  # error on preferred samples, of the first window
        self._trained_reward = trained_reward
        self._recent: deque[Mapping[str, float]] = deque(maxlen=config.window)
        self._first_loss: float | None = None  # mean of the first window
        self._first_rewards: dict[str, Mapping[str, float]] = {}
        self._first_diversity: float | None = None
        self._first_volume: float | None = None
        drift = config.volume_drift
        self._volume_action = drift if drift != "auto" else "stop" if unbounded else "warn"
        self._steps = 0
        self._rung: dict[str, int | None] = {}  # the step since which it has been quiet; None: it rings

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to ring as the uninterrupted one would."""
        return {
            "steps": self._steps,
            "recent": [dict(row) for row in self._recent],
            "first_loss": self._first_loss,
            "first_winner": self._first_winner,
            "first_rewards": {name: dict(row) for name, row in self._first_rewards.items()},
            "first_diversity": self._first_diversity,
            "first_volume": self._first_volume,
            "rung": dict(self._rung),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; of a checkpoint from before an alarm was told once, from what it has."""
        self._steps = state.get("steps", 0)
        self._recent = deque(state["recent"], maxlen=self._config.window)
        self._first_loss = state.get("first_loss")
        self._first_winner = state.get("first_winner")
        self._first_rewards = dict(state["first_rewards"])
        self._first_diversity = state.get("first_diversity")
        self._first_volume = state.get("first_volume")
        self._rung = dict(state.get("rung", {}))

    def after_step(self, metrics: Mapping[str, float]) -> list[Alarm]:
        """Feed one step's metrics; returns the alarms that begin with it."""
        self._steps += 1
        self._recent.append(metrics)
        if len(self._recent) < self._config.window:
            return []
        return [*self._winner_error(), *self._saturation()]

    def after_samples(
        self,
        rewards: Mapping[str, Mapping[str, float]],
        diversity: float | None = None,
        volume: float | None = None,
    ) -> list[Alarm]:
        """Feed the periodic samples' figures.

        The first ones, drawn before the first step, are what the others are compared with.

        Args:
            rewards: reward name -> mean, spread (standard deviation), count.
            diversity: of the samples.
            volume: of shapes the share of cells that are filled.
        """
        for name, figures in rewards.items():
            self._first_rewards.setdefault(name, figures)
        alarms = self._hacking(rewards)
        if diversity is not None:
            alarms += self._collapse(diversity)
        return alarms if volume is None else [*alarms, *self._drift(volume)]

    def _mean(self, name: str) -> float | None:
        values = [row[name] for row in self._recent if name in row]
        return sum(values) / len(values) if values else None

    def _winner_error(self) -> list[Alarm]:
        policy, reference = self._mean("good_error") or self._mean("winner_error"), self._mean("reference_winner_error")
        if not policy or not (reference or self._unbounded):  # without a good sample there is no error of one
            return []
        if self._first_winner is None:
            self._first_winner = policy
        compared, whose = (reference, "the reference's") if reference else (self._first_winner, "what it was at first")
        limit = self._config.winner_error_limit
        remedy = "lower optimizer.learning_rate" if self._unbounded else _REMEDY
        return self._report(
            "winner_error_rising",
            self._winner_action,
            policy > limit * compared,
            f"the policy's error on preferred samples is {policy / compared:.2f} times {whose} (limit {limit:g}) over the "
            f"last {self._config.window} steps: it is forgetting what it should prefer; {remedy}",
        )

    def _saturation(self) -> list[Alarm]:
        """A logistic loss begins at ln 2, which the limit is made for; that of a loss on a smaller scale shrinks with it.

        Errors (ipo in their unit) and losses with a denoising error in them would be below the limit from the start.
        """
        loss = self._mean("loss")
        if loss is None or self._mean("margin") is None:
            return []
        if self._first_loss is None:
            self._first_loss = loss
        limit = self._config.saturation_limit * min(1.0, self._first_loss / math.log(2))
        return self._report(
            "saturation",
            self._config.saturation,
            0 <= loss < limit,
            f"the loss has averaged {loss:.3g} over the last {self._config.window} steps (limit {limit:.3g}): the pairs "
            "are learned by heart; stop here or add data",
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

    def _collapse(self, diversity: float) -> list[Alarm]:
        """Of one sample, and of equal ones, the figure is 0, which cannot fall."""
        if self._first_diversity is None:
            self._first_diversity = diversity
        first, limit = self._first_diversity, self._config.diversity_limit
        if not first > 0:
            return []
        return self._report(
            "diversity_collapse",
            self._config.diversity_collapse,
            diversity < limit * first,
            f"the samples of different prompts differ {diversity / first:.2f} times as much as before the first step "
            f"(limit {limit:g}): the pictures become one; look at the samples, and go back to an earlier checkpoint",
        )

    def _drift(self, volume: float) -> list[Alarm]:
        if self._first_volume is None:
            self._first_volume = volume
        first, limit = self._first_volume, self._config.volume_limit
        if not first > 0:
            return []
        return self._report(
            "volume_drift",
            self._volume_action,
            not first / limit <= volume <= first * limit,
            f"the shapes fill {volume / first:.2f} times as much as before the first step (limit {limit:g}, or 1 over "
            "that): they lose their form; look at the samples, and train for fewer steps or with another objective",
        )

    def _report(self, alarm: str, action: str, rings: bool, message: str, subject: str = "") -> list[Alarm]:
        bell = f"{alarm} {subject}".strip()
        if not rings:
            if bell in self._rung and self._rung[bell] is None:
                self._rung[bell] = self._steps
            return []
        if action == "off":
            return []
        quiet_since = self._rung.get(bell, -self._config.window)  # one that never rang may
        self._rung[bell] = None
        if quiet_since is None or self._steps - quiet_since < self._config.window:
            return []
        return [Alarm(alarm, action, message)]
