"""Where the noise of training comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from diffalign.config.params import Params


class GaussianNoise(Params):
    """Drawn, one for each group, or with training.share_noise: false one for each member."""

    name: Literal["gaussian"] = "gaussian"


class InversionNoise(Params):
    """Found by inverting each clean latent with the policy as it is: SmPO's. Every member then has its own."""

    name: Literal["inversion"] = "inversion"
    steps: PositiveInt = 9  # of the grid over all times, of which a draw takes those below its own; the paper's
    renoise: NonNegativeInt = 1  # how often each step's prediction is made again; 0: plain DDIM inversion
    average: Literal["all", "last"] = "all"  # the mean of all of a step's predictions, or the last of them
    # exact: up to the draw's own time; floor and ceil: to the grid below or above, as two generations of diffusers did
    snap: Literal["exact", "floor", "ceil"] = "exact"


NoiseParams = Annotated[GaussianNoise | InversionNoise, Field(discriminator="name")]
