"""What the policy draws for the prompts of a chunk, and what the rewards say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.data import TrainingOrder, seeded
from diffalign.pipelines import ImageGenerator
from diffalign.rewards import Reward, Sample
from diffalign.samplers import rollout
from diffalign.training.rounds import Chunk, Plan, stored


class Drawer:
    """Draws the groups of a chunk. All that it draws follows from the seed, the round and the prompt.

    Args:
        prompts: (id, prompt) of all that is drawn for; the backbone knows their text states.
        generator: how pictures are drawn.
        rewards: what judges them.
        autocast: the context that the network's steps run in, drawn and scored again.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[tuple[str, str]],
        generator: ImageGenerator,
        rewards: Sequence[Reward],
        plan: Plan,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        assert config.online is not None
        self._config = config
        self._online = config.online
        self._prompts = prompts
        self._order = TrainingOrder(len(prompts), config.seed)
        self._generator = generator
        self._rewards = rewards
        self._plan = plan
        self._autocast = autocast

    def named(self, number: int, chunk: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and prompts of a chunk's groups."""
        places = [self._order.place(number * self._plan.prompts + place) for place in self._plan.places(chunk)]
        records = [(epoch, *self._prompts[index]) for epoch, index in places]
        return tuple(f"{name}@{epoch}" for epoch, name, _ in records), tuple(prompt for *_, prompt in records)

    def draw(self, number: int, chunk: int, view: str) -> Chunk:
        """What that view's network draws for the groups of a chunk of round `number`, and what the rewards say of it."""
        names, prompts = self.named(number, chunk)
        members, trajectory = self._online.members, None
        generators = [seeded(self._config.seed, number, name, "rollout") for name in names]
        if self._config.objective.on_trajectories:
            condition = self._generator.condition(prompts)
            x_init = self._generator.noise(generators, 1 if self._online.same_start else members)
            with self._autocast():
                trajectory = rollout(
                    self._generator.denoiser(view),
                    self._generator.sampler,
                    condition,
                    x_init.expand(-1, members, *x_init.shape[2:]),
                    self._generator.times,
                    generators=generators,
                )
            x0 = trajectory.x0
        else:
            texts = [prompt for prompt in prompts for _ in range(members)]
            seeds = [int(torch.randint(2**62, (), generator=each)) for each in generators for _ in range(members)]
            latents = self._generator.latents(texts, seeds, view=view)
            x0 = torch.cat(list(latents)).unflatten(0, (len(prompts), members))
        rewards = self._judged(x0, names, prompts)
        kept = None if trajectory is None else stored(trajectory)
        return Chunk(chunk, names, prompts, x0.cpu(), rewards, kept)

    def _judged(self, x0: Tensor, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """[rewards, groups, members]."""
        members, size = x0.shape[1], self._config.data.encode_batch
        flat = x0.flatten(0, 1)
        pictures = torch.cat(
            [self._generator.backbone.decode(flat[start : start + size]).cpu() for start in range(0, len(flat), size)]
        )
        samples = [
            Sample(picture, prompts[place // members], id=f"{names[place // members]}/{place % members}")
            for place, picture in enumerate(pictures)
        ]
        values = [reward.score(samples).values for reward in self._rewards]
        return torch.stack(values).float().unflatten(1, (len(prompts), members))
