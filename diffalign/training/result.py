"""What a run leaves for others to load: the trained adapter or model, in diffusers' format."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.exceptions import SaveError
from diffalign.training.model_card import model_card
from diffalign.training.sharding import gathered, shards
from diffalign.training.team import Team


def write_result(run: Path, config: RunConfig, backbone: Backbone, view: str, accelerator: Accelerator) -> None:
    """Write a view into the run folder: adapter/, or model/ of full fine-tuning. All processes call it, the first writes.

    Where networks are in pieces, the view's tensors are gathered one by one on the CPU of the first process.

    Raises:
        SaveError: it cannot be written; in all processes.
    """
    team, folder = Team.of(accelerator), run / config.model.result
    state = gathered(backbone.state(view), keep=team.is_main) if shards(config, accelerator) else None
    try:
        team.main_alone(lambda: backbone.save_adapter(folder, view, card=model_card(config, run), state=state))
    except OSError as error:
        raise SaveError(
            f"{error}; all that it needs is in the last checkpoint: free some space and go on with diffalign train "
            f"--resume {run}"
        ) from None
