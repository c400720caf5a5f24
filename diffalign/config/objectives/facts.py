"""What can be said about an objective without importing torch: the base of every objective's settings.

The functions in `diffalign.objectives` have no defaults: these are the defaults. `diffalign list objectives`, the
trainer, the docs and the tests read the facts from here through `diffalign.objectives.OBJECTIVES`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from diffalign.config.params import Params

Layout = Literal["points", "pairs", "groups"]


class ObjectiveFacts(Params):
    """The base of every objective's settings.

    Class attributes:
        layout: how many members a group has: 1 (points), 2 with the preferred first (pairs), any (groups).
        first: what the function takes by position: the policy's errors, residuals or log-probabilities.
        needs: the inputs that the function takes by keyword besides.
        optional: inputs that it takes by keyword and does without, unless a setting asks for them.
        online: it needs what only the policy's own sampling gives (behaviour, trajectories).
        data: what records it learns from, in words.
        beta_factor: what multiplies beta inside the loss, or None where no beta weighs an error.
        paper: where it comes from.
        families: "any", or "flow" where only flow models fit.
        unit_rewards: its rewards must lie in [0, 1].
        unbounded: its loss has no lower bound.
        experts: member 0 is a record's, member 1 what the policy draws for its prompt.
    """

    layout: ClassVar[Layout]
    first: ClassVar[Literal["policy", "policy_residual", "log_prob"]] = "policy"
    needs: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    online: ClassVar[bool] = False
    data: ClassVar[str]
    beta_factor: ClassVar[float | None]
    paper: ClassVar[str]
    families: ClassVar[Literal["any", "flow"]] = "any"
    unit_rewards: ClassVar[bool] = False
    unbounded: ClassVar[bool] = False
    experts: ClassVar[bool] = False

    def inputs(self) -> tuple[str, ...]:
        """What the function needs by keyword with these settings."""
        return self.needs

    @property
    def compares_with_reference(self) -> bool:
        return bool({"reference", "reference_residual", "reference_log_prob", "divergence"} & set(self.inputs()))

    @property
    def compares_with_behaviour(self) -> bool:
        """With the errors of the network that drew the samples; log-probabilities are kept from the drawing."""
        return bool({"behaviour", "behaviour_residual"} & set(self.inputs()))

    @property
    def compares_with_average(self) -> bool:
        return "ema_divergence" in self.inputs()

    @property
    def on_trajectories(self) -> bool:
        """Whether it learns from the steps of sampling, and not from denoising errors."""
        return self.first == "log_prob"
