"""The trainer of a config: its data, or its prompts and rewards, and the loop that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from accelerate import Accelerator

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import Share
from diffalign.objectives import get_objective
from diffalign.rewards import build_reward, build_set_reward
from diffalign.training.build import build_drawing, build_time
from diffalign.training.build_data import build_data, build_prompts
from diffalign.training.experts import ExpertTrainer
from diffalign.training.known_texts import know_texts
from diffalign.training.offline import OfflineTrainer
from diffalign.training.online import OnlineTrainer
from diffalign.training.processes import start_accelerator, start_backbone
from diffalign.training.sharding import shards
from diffalign.training.trainer import Trainer


def build_trainer(config: RunConfig) -> Any:
    """A trainer with fresh weights and every part as the config says: to step by hand, in a benchmark or a test.

    An `OfflineTrainer`, or an `OnlineTrainer` where the config has the section `online`.

    Raises:
        ConfigError: device, precision, number of processes or model cannot be had here.
        DataError: the data cannot be used.
    """
    accelerator = start_accelerator(config)
    return trainer_of(config, start_backbone(config, accelerator), accelerator)


def trainer_of(
    config: RunConfig, backbone: Backbone, accelerator: Accelerator, held_out: Sequence[str] = ()
) -> Trainer:
    """Read the data, fill the caches, let go of the encoders that are not needed any more.

    Args:
        held_out: prompts that are drawn beside the training: their text states are kept in the cache too.

    Raises:
        ConfigError, DataError: the data or the prompts cannot be used, or are not what the objective learns from.
    """
    share = Share(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    objective, time_of = get_objective(config.objective.name), build_time(config, backbone)
    if config.online is None or config.objective.experts:
        data = build_data(config, backbone, share)
        know_texts(config, backbone, data.texts, held_out)
        _free_encoders(config, backbone, accelerator)
        if config.online is None:
            return OfflineTrainer(config, backbone, data, objective, time_of, accelerator)
        drawing = build_drawing(config, backbone)
        return ExpertTrainer(config, backbone, data, objective, time_of, accelerator, drawing)
    records, texts = build_prompts(config, backbone, share)
    know_texts(config, backbone, texts, [*held_out, *(prompt for _, prompt in records)])
    _free_encoders(config, backbone, accelerator)
    rewards = [build_reward(params) for params in config.online.rewards]
    named = config.online.set_reward
    set_reward = None if named is None else build_set_reward(named)
    drawings = partial(build_drawing, config, backbone)
    return OnlineTrainer(config, backbone, records, objective, drawings, rewards, set_reward, time_of, accelerator)


def _free_encoders(config: RunConfig, backbone: Backbone, accelerator: Accelerator) -> None:
    decodes = config.samples.every is not None or config.online is not None
    backbone.free_encoders("text", *([] if decodes else ["vae"]))
    if not shards(config, accelerator) and backbone.device.type != accelerator.device.type:  # the network waited
        backbone.network.to(accelerator.device)
