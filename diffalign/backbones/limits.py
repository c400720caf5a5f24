"""What a checkpoint can do: the resolutions that it has latents for, and the numbers of steps that its scheduler takes."""

from __future__ import annotations

from typing import Any

from diffalign.exceptions import ConfigError


def check_resolution(resolution: int, unit: int, most: int | None) -> int:
    """The resolution, if it is a positive multiple of `unit` and at most `most`.

    Raises:
        ConfigError: it is not; names the nearest that are.
    """
    if resolution >= unit and resolution % unit == 0 and (most is None or resolution <= most):
        return resolution
    below = max(unit, resolution // unit * unit)
    above = below if resolution < unit else below + unit
    near = {value if most is None else min(value, most) for value in (below, above)}
    upto = "" if most is None else f" and at most {most}"
    raise ConfigError(
        f"data.resolution: must be a positive multiple of {unit}{upto} for this model, got {resolution}; "
        f"nearest: {' or '.join(map(str, sorted(near)))}"
    )


def set_steps(scheduler: Any, steps: int, **options: Any) -> None:
    """Tell a diffusers scheduler the number of steps, and what else it must know.

    Raises:
        ConfigError: it cannot take as many, or as few.
    """
    try:
        if steps < 1:
            raise ValueError
        scheduler.set_timesteps(steps, **options)
    except ValueError:
        most = scheduler.config.num_train_timesteps
        raise ConfigError(
            f"steps: must be from 1 to {most}, the times that this model was trained on, got {steps}"
        ) from None
