"""What a run leaves for others to load: the trained adapter or model, in diffusers' format, and which step it is of."""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import Accelerator

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.exceptions import SaveError
from diffalign.training.checkpoint import list_checkpoints, step_of
from diffalign.training.model_card import model_card
from diffalign.training.run_log import write_json
from diffalign.training.sharding import gathered, shards
from diffalign.training.team import Team


def write_result(
    run: Path, config: RunConfig, backbone: Backbone, view: str, accelerator: Accelerator, step: int
) -> None:
    """Write a view into the run folder: adapter/, or model/ of full fine-tuning. All processes call it, the first writes.

    Where networks are in pieces, the view's tensors are gathered one by one on the CPU of the first process.
    result.json, which says of which step they are, comes last: cut off in between, they are written again on resume.

    Raises:
        SaveError: it cannot be written; in all processes.
    """
    team, folder = Team.of(accelerator), run / config.model.result
    state = gathered(backbone.state(view), keep=team.is_main) if shards(config, accelerator) else None

    def write() -> None:
        backbone.save_adapter(folder, view, card=model_card(config, run, step), state=state)
        write_json(run / "result.json", {"step": step, "view": view})

    try:
        team.main_alone(write)
    except OSError as error:
        raise SaveError(
            f"{error}; all that it needs is in the last checkpoint: free some space and go on with diffalign train "
            f"--resume {run}"
        ) from None


def result_step(run: Path) -> int | None:
    """Of which step adapter/ or model/ are; None: nobody said, as an older diffalign did not."""
    try:
        return int(json.loads((run / "result.json").read_text())["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def trained_steps(config: RunConfig, run: Path) -> int:
    """The same; where nobody said, all that the settings ask for."""
    return result_step(run) or config.training.steps


def gone_on(run: Path, config: RunConfig) -> str | None:
    """What to say of a result that the run has gone on from since; None: it is of the newest checkpoint."""
    step, newest = result_step(run), max(map(step_of, list_checkpoints(run)), default=0)
    if step is None or newest <= step:
        return None
    return (
        f"{run / config.model.result} is of step {step}, and the run has gone on to step {newest}: finish it with "
        f"diffalign train --resume {run}"
    )
