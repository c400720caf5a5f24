"""The online loop: the policy draws, rewards judge, and the policy learns from it; then it draws again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import content_key
from diffalign.denoising import NoiseDraw, SampleTime
from diffalign.exceptions import ConfigError
from diffalign.objectives import Objective
from diffalign.pipelines import ImageGenerator
from diffalign.rewards import Reward, SetReward
from diffalign.training.drawer import Drawer
from diffalign.training.human import check_votes, voted_chunks
from diffalign.training.inverted_noise import training_noise
from diffalign.training.lessons import Lesson, contrast_of_sets, labels_from, lesson_of, round_figures
from diffalign.training.micro_batch import MicroBatch
from diffalign.training.record_checks import check_rewards
from diffalign.training.round_draws import drawn_noise, pair_draws, trained_steps
from diffalign.training.rounds import Chunk, Plan, Round, chunk_of, from_tensors, to_tensors
from diffalign.training.trainer import Trainer
from diffalign.training.trajectory_loss import TrajectoryBatch, TrajectoryLoss
from diffalign.types import Condition, GroupBatch

log = logging.getLogger(__name__)


class OnlineTrainer(Trainer):
    """Trains on what the policy draws for prompts. Every draw follows from the round, the prompt and the seed.

    Args:
        prompts: (id, prompt) of all that is drawn for; the backbone knows their text states.
        drawing: how the policy draws in round n.
        rewards, set_reward: what judges the pictures, as the section `online` names them.
        sample_time: how times are drawn for methods on denoising errors.
    """

    def __init__(
        self,
        config: RunConfig,
        backbone: Backbone,
        prompts: Sequence[tuple[str, str]],
        objective: Objective,
        drawing: Callable[[int], ImageGenerator],
        rewards: Sequence[Reward],
        set_reward: SetReward | None,
        sample_time: SampleTime,
        accelerator: Accelerator,
    ) -> None:
        assert config.online is not None
        self.online = config.online
        self._prompts = prompts
        self._drawing = drawing
        self._generator = drawing(0)
        self._rewards = rewards
        self._set_reward = set_reward
        self._sample_time = sample_time
        self._plan = Plan.of(config, accelerator.process_index)
        self._drawer = Drawer(config, prompts, rewards, set_reward, self._plan, accelerator.autocast)
        self._rounds: deque[Round] = deque(maxlen=self.online.keep_rounds)  # the newest first
        self._waiting: dict[int, Chunk] = {}  # drawn, and not judged by people yet
        self._told: tuple[Chunk, Condition] | None = None
        self._of_round: dict[str, float] = {}  # what every step says of its round
        self._renewed = -1  # the round whose views are made
        super().__init__(config, backbone, objective, accelerator)
        check_rewards(config, rewards)
        self._trajectory_loss = TrajectoryLoss(config, backbone, objective, accelerator, self._loss.synced)

    @property
    def groups(self) -> int:
        return len(self._prompts)

    @property
    def content_hash(self) -> str:
        return content_key(*(text for record in self._prompts for text in record))

    # ------------------------------------------------------------ a round

    def _begin_step(self) -> dict[str, float]:
        number, within = divmod(self.step, self._plan.steps)
        if within:
            return self._of_round
        started = time.monotonic()
        human = self.online.preference == "human"
        if human:
            check_votes(self._home, number)
        self._renew_views(number)
        self._generator = self._drawing(number)
        drawn = self._waiting or {
            chunk: self._drawer.draw(self._generator, number, chunk, self.config.drawing_view)
            for chunk in self._plan.mine
        }
        if human:
            self._waiting = drawn  # a checkpoint keeps what people are shown
            drawn = voted_chunks(self._home, number, drawn)
            self._waiting = {}
        lesson, figures = self._learnt(self._gathered(drawn))
        if not bool(lesson.informative.any()):
            log.warning(
                "round %d: none of its %d prompts tells its pictures apart: nothing to learn",
                number,
                self._plan.prompts,
            )
        self._note(Round(number, drawn, lesson), figures)
        return self._of_round | figures | {"seconds_per_round": time.monotonic() - started}

    def _note(self, newest: Round, figures: Mapping[str, float]) -> None:
        self._rounds.appendleft(newest)
        told = {name: value for name, value in figures.items() if name == "round_reward"}
        self._of_round = {"round": float(newest.number)} | told

    def _renew_views(self, number: int) -> None:
        """The networks that a round draws with, and compares with, as they are from now on; once for each round."""
        if number == self._renewed:
            return
        self._renewed = number
        online, held = self.online, self.config.held_views
        if "behaviour" in held and number % online.policy_sync_every == 0:
            renewal = number // online.policy_sync_every
            self.backbone.snapshot("behaviour", online.policy_decay.at(renewal) if number else 0.0)
        if "average" in held and number == 0:
            self.backbone.snapshot("average")
        every = online.reference_every
        if every is not None and number and number % every == 0:
            self.backbone.snapshot("anchor")
            self._compare_with_anchor()

    def _compare_with_anchor(self) -> None:
        self._loss.compare_with("anchor")
        self._trajectory_loss.compare_with("anchor")

    @property
    def _home(self) -> Path:
        if self.folder is None:
            raise ConfigError(
                "online.preference: 'human' needs a run folder to show the pictures in; use diffalign train"
            )
        return self.folder

    def _gathered(self, drawn: Mapping[int, Chunk]) -> list[tuple[Tensor, Tensor | None]]:
        """Rewards and features of all chunks of a round, of all processes, in order."""
        mine = [(number, (chunk.rewards, chunk.features)) for number, chunk in drawn.items()]
        every = dict(gather_object(mine) if self.accelerator.num_processes > 1 else mine)
        return [every[number] for number in sorted(every)]

    def _learnt(self, judged: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Lesson, dict[str, float]]:
        """What a round teaches, from the rewards and features of its chunks; and figures of it."""
        rewards = torch.cat([each for each, _ in judged], 1)
        features = [each for _, each in judged if each is not None]
        found = None
        if self._set_reward is not None:
            found = contrast_of_sets(self.config, self._set_reward, torch.cat(features), rewards)
        lesson = lesson_of(self.config, rewards, None if found is None else found.contrast)
        names = [reward.spec.name for reward in self._rewards]
        numbered = [name if name not in names[:place] else f"{name}_{place + 1}" for place, name in enumerate(names)]
        return lesson, round_figures(lesson, rewards, numbered, found)

    # ------------------------------------------------------------ a step

    def _taught(self, number: int) -> tuple[Round, Chunk]:
        """The round and the chunk that forward `number` of this step trains on."""
        current, within = divmod(self.step, self._plan.steps)
        back, slot = self._plan.slot(within, len(self._rounds), self.config.seed, current)
        taught = self._rounds[back]
        return taught, taught.chunks[self._plan.chunk(slot, number)]

    def _condition(self, chunk: Chunk) -> Condition:
        """Of its prompts; read from the cache once for all draws of a forward."""
        if self._told is None or self._told[0] is not chunk:
            self._told = chunk, self._generator.condition(chunk.prompts)
        return self._told[1]

    def _weight(self, taught: Round, chunk: Chunk) -> Tensor | None:
        weights = taught.lesson.weights(self.config.groups_per_step)
        places = self._plan.places(chunk.number)
        return None if weights is None else weights[places.start : places.stop].to(self.backbone.device)

    def _backward(self, number: int, baseline: Tensor | None) -> tuple[dict[str, float], tuple[str, ...], list[str]]:
        if self.config.objective.on_trajectories:
            return self._backward_on_steps(number)
        sums: dict[str, float] = {}
        spoilt: list[str] = []
        for draw in range(self.online.draws):
            micro = self._micro_batch(number, draw)
            metrics, bad = self._loss.backward(micro, lambda: self._dropout_draws(number), baseline)
            spoilt += bad
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value * micro.share
        return sums, tuple(dict.fromkeys(spoilt)), list(micro.batch.record_ids)

    def _backward_on_steps(self, number: int) -> tuple[dict[str, float], tuple[str, ...], list[str]]:
        taught, chunk = self._taught(number)
        assert chunk.trajectory is not None
        places, lesson, device = self._plan.places(chunk.number), taught.lesson, self.backbone.device
        part = slice(places.start, places.stop)
        taken = chunk.trajectory.of_members(lesson.members(part, pair_draws(self.config, chunk, self.step))).to(device)
        batch = TrajectoryBatch(
            replace(taken, condition=self._condition(chunk)),
            trained_steps(self.config, chunk, self.step).to(device),
            None if lesson.advantage is None else lesson.advantage[part].to(device),
            self._weight(taught, chunk),
            last=number == self.config.training.accumulation - 1,
        )
        metrics, fine = self._trajectory_loss.backward(batch, self._generator)
        return metrics, tuple(name for name, each in zip(chunk.names, fine, strict=True) if not each), list(chunk.names)

    def _micro_batch(self, number: int, draw: int = 0) -> MicroBatch:
        home, chunk = self._taught(number)
        training, device, places = self.config.training, self.backbone.device, self._plan.places(chunk.number)
        taught = home.lesson.taught(slice(places.start, places.stop), pair_draws(self.config, chunk, self.step))
        x0 = chunk.x0[torch.arange(len(places))[:, None], taught.order]
        batch = GroupBatch(
            x0=x0,
            condition=_of_training(self._condition(chunk)),
            valid=torch.ones(taught.order.shape, dtype=torch.bool),
            record_ids=chunk.names,
            reward=taught.reward if len(chunk.rewards) else None,  # none where a reward of sets alone judges
            label=labels_from(self.online.good_from, taught.reward, taught.told),
            preference=torch.ones(len(places)),
        ).to(device)
        drawn = self._draw(chunk, x0, draw).to(device)
        noise = training_noise(self.config, self.backbone, self.accelerator, batch, drawn)
        return MicroBatch(
            batch,
            noise,
            None,
            last=number == training.accumulation - 1 and draw == self.online.draws - 1,
            progress=self.step / training.steps,
            advantage=None if taught.advantage is None else taught.advantage.to(device),
            weight=self._weight(home, chunk),
            share=1 / self.online.draws,
            told=taught.told.to(device),
        )

    def _draw(self, chunk: Chunk, x0: Tensor, number: int) -> NoiseDraw:
        places, times = self._plan.places(chunk.number), self._generator.times
        return drawn_noise(self.config, chunk, x0, self._sample_time, times, places, self.step, number)

    def _end_step(self, *, skipped: bool) -> None:
        if "average" in self.config.held_views and not skipped:
            self.backbone.snapshot("average", self.online.averaging.at(self.step))

    # ------------------------------------------------------------ checkpoints

    @property
    def _kept_views(self) -> tuple[str, ...]:
        every = self.online.reference_every
        made = {
            "behaviour": self._renewed >= 0,
            "average": self._renewed >= 0,
            "anchor": every is not None and self._renewed >= every,
        }
        return tuple(name for name in self.config.held_views if made.get(name, False))

    def _state(self) -> dict[str, Any]:
        return {"renewed": self._renewed}

    def _own_tensors(self) -> Mapping[str, Tensor]:
        over = self.step % self._plan.steps == 0
        keep = self.online.keep_rounds - 1 if over else self.online.keep_rounds
        kept = {each.number: each.chunks for each in list(self._rounds)[:keep]}
        return to_tensors(kept | ({self.step // self._plan.steps: self._waiting} if self._waiting else {}))

    def _restore_own(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._renewed = state["renewed"]
        self._generator = self._drawing(max(self._renewed, 0))
        if "anchor" in self._kept_views:
            self._compare_with_anchor()
        numbers = sorted({int(key.partition(".")[0]) for key in tensors})
        for number in numbers:
            parts = from_tensors(tensors, number, self._plan)
            judged = [(parts[chunk]["rewards"], parts[chunk].get("features")) for chunk in sorted(parts)]
            times = self._generator.times.cpu()
            chunks = {
                chunk: chunk_of(chunk, *self._drawer.named(number, chunk), parts[chunk], times)
                for chunk in self._plan.mine
            }
            if number * self._plan.steps == self.step:  # of the next round: it waits for people
                self._waiting = {each: self._drawer.shown(self.backbone, chunk) for each, chunk in chunks.items()}
                continue
            lesson, figures = self._learnt(judged)
            self._note(Round(number, chunks, lesson), figures)


def _of_training(condition: Condition) -> Condition:
    """Without what was for the drawing alone: the empty prompt, and the scale that a distilled network was told."""
    return replace(condition, null=None, leaves={k: v for k, v in condition.leaves.items() if k != "guidance"})
