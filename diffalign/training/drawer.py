"""What the policy draws for the prompts of a chunk, and what the rewards say of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import TrainingOrder, seeded
from diffalign.pipelines import ImageGenerator
from diffalign.rewards import Reward, Sample, SetReward
from diffalign.samplers import rollout
from diffalign.training.rounds import Chunk, Plan, stored

log = logging.getLogger(__name__)
_LONG = 8  # steps of rounds that are told of as they begin: nothing else is seen for minutes


class Drawer:
    """Draws the groups of a chunk. All that it draws follows from the seed, the round and the prompt.

    Args:
        prompts: (id, prompt) of all that is drawn for; the backbone knows their text states.
        rewards, set_reward: what judges them, one by one and all together.
        autocast: the context that the network's steps run in, drawn and scored again.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[tuple[str, str]],
        rewards: Sequence[Reward],
        set_reward: SetReward | None,
        plan: Plan,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        assert config.online is not None
        self._config = config
        self._online = config.online
        self._prompts = prompts
        self._order = TrainingOrder(len(prompts), config.seed)
        self._rewards = rewards
        self._set_reward = set_reward
        self._plan = plan
        self._autocast = autocast

    def named(self, number: int, chunk: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and prompts of a chunk's groups."""
        places = [self._order.place(number * self._plan.prompts + place) for place in self._plan.places(chunk)]
        records = [(epoch, *self._prompts[index]) for epoch, index in places]
        return tuple(f"{name}@{epoch}" for epoch, name, _ in records), tuple(prompt for *_, prompt in records)

    def draw(self, generator: ImageGenerator, number: int, chunk: int, view: str) -> Chunk:
        """What that view's network draws for the groups of a chunk of round `number`, and what the rewards say of it."""
        names, prompts = self.named(number, chunk)
        members, trajectory = self._online.members, None
        if self._plan.steps >= _LONG and chunk == 0:
            log.info("round %d: drawing %d for each of %d prompts", number, members, self._plan.prompts)
        generators = [seeded(self._config.seed, number, name, "rollout") for name in names]
        if self._config.objective.on_trajectories:
            condition = generator.condition(prompts)
            x_init = generator.noise(generators, 1 if self._online.same_start else members)
            with self._autocast():
                trajectory = rollout(
                    generator.denoiser(view),
                    generator.sampler,
                    condition,
                    x_init.expand(-1, members, *x_init.shape[2:]),
                    generator.times,
                    generators=generators,
                )
            x0 = trajectory.x0
        else:
            texts = [prompt for prompt in prompts for _ in range(members)]
            seeds = [int(torch.randint(2**62, (), generator=each)) for each in generators for _ in range(members)]
            with self._autocast():
                latents = list(generator.latents(texts, seeds, view=view))
            x0 = torch.cat(latents).unflatten(0, (len(prompts), members))
        kept = None if trajectory is None else stored(trajectory)
        if self._online.preference == "human":
            unknown = torch.full((1, len(prompts), members), torch.nan)
            return self.shown(generator.backbone, Chunk(chunk, names, prompts, x0.cpu(), unknown, kept))
        pictures = self._decoded(generator.backbone, x0.flatten(0, 1))
        rewards, features = self._judged(x0, pictures, names, prompts)
        return Chunk(chunk, names, prompts, x0.cpu(), rewards, kept, features)

    def shown(self, backbone: Backbone, chunk: Chunk) -> Chunk:
        """With its pictures, for people."""
        pictures = self._decoded(backbone, chunk.x0.flatten(0, 1).to(backbone.device))
        return replace(chunk, pictures=pictures.unflatten(0, chunk.x0.shape[:2]))

    def _decoded(self, backbone: Backbone, x0: Tensor) -> Tensor:
        size = self._config.data.encode_batch
        parts = [backbone.decode(x0[start : start + size]) for start in range(0, len(x0), size)]
        return torch.cat([part.cpu() for part in parts])

    def _judged(
        self, x0: Tensor, pictures: Tensor, names: Sequence[str], prompts: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        """Rewards [rewards, groups, members], and what the reward of sets sees [groups, members, features]."""
        members = x0.shape[1]
        samples = [
            Sample(picture, prompts[place // members], id=f"{names[place // members]}/{place % members}")
            for place, picture in enumerate(pictures)
        ]
        shape = (len(prompts), members)
        values = [reward.score(samples).values.float() for reward in self._rewards]
        rewards = torch.stack(values).unflatten(1, shape) if values else torch.zeros(0, *shape)
        if self._set_reward is None:
            return rewards, None
        if self._set_reward.spec.media == "features":  # the latents themselves
            samples = [
                replace(sample, media=latent) for sample, latent in zip(samples, x0.flatten(0, 1).cpu(), strict=True)
            ]
        return rewards, self._set_reward.features(samples)[0].unflatten(0, shape)
