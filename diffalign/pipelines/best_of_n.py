"""Best of n: draw several pictures for a prompt, keep the one that a reward likes best. Aligns without training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines.generate import ImageGenerator, check_texts
from diffalign.rewards import Reward, Sample
from diffalign.rewards.media import MEDIA

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Best:
    """The best picture of every prompt.

    Attributes:
        pictures: in [0, 1], on the CPU.
        scores: of all that were drawn; NaN where one could not be scored.
        chosen: which of the n was taken.
    """

    pictures: Float[Tensor, "prompts *medium"]
    scores: Float[Tensor, "prompts n"]
    chosen: Int[Tensor, " prompts"]


def best_of_n(
    generator: ImageGenerator,
    prompts: Sequence[str],
    reward: Reward,
    n: int,
    *,
    seed: int = 0,
    view: str = "policy",
) -> Best:
    """Draw `n` pictures for each prompt and keep the one with the highest reward.

    Candidate k of prompt i has the seed `seed + i n + k`, as `diffalign generate --count n` draws them. Of candidates with
    one reward the one with the lower seed is kept; one that is unscored never is. Of each prompt only the best picture so
    far is held, so memory does not grow with n.

    Args:
        generator: draws the candidates, `generator.batch` at a time.
        prompts: what to draw.
        reward: any reward of the instance level; several as one by `diffalign.rewards.RewardEnsemble`, whose `worst` and
            `uncertainty` resist being over-optimised.
        n: the sample budget of a prompt. The reward rises with it ever more slowly: the distance from the model (KL) is at
            most log n - (n - 1) / n.
        seed: of the first candidate of the first prompt.
        view: which of the backbone's networks draws.

    Raises:
        ConfigError: n is below 1, there are no prompts or one text in their place, or the reward is not for pictures, or
            needs more than a picture and its prompt.
        DataError: none of a prompt's candidates could be scored; says why.

    Example:
        `best_of_n(run.generator, ["a red circle"], load_reward("scene", form="graded"), 16).pictures`
    """
    check_texts(prompts)
    if not prompts:
        raise ConfigError("prompts: there are none")
    _check(reward, n, generator.backbone.medium)
    starts = [seed + place * n for place in range(len(prompts))]
    found = list(_best(generator, prompts, starts, reward, n, view))
    pictures, scores, chosen = zip(*found, strict=True)
    return Best(torch.stack(pictures), torch.stack(scores), torch.tensor(chosen))


@dataclass(frozen=True)
class BestOf(ImageGenerator):
    """A generator whose every picture is the best of `n`: that of seed s is chosen from the seeds s n to s n + n - 1.

    Attributes:
        candidates: draws them.
        reward: chooses.
        n: pictures that are drawn for one.
    """

    candidates: ImageGenerator = field(kw_only=True)
    reward: Reward = field(kw_only=True)
    n: int = field(kw_only=True)

    @classmethod
    def of(cls, generator: ImageGenerator, reward: Reward, n: int) -> BestOf:
        """Choose from what another generator draws.

        Raises:
            ConfigError: n is below 1, or the reward is not for pictures.
        """
        _check(reward, n, generator.backbone.medium)
        given = {each.name: getattr(generator, each.name) for each in fields(ImageGenerator)}
        return cls(**given, candidates=generator, reward=reward, n=n)

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], *, view: str = "policy"
    ) -> Iterator[Float[Tensor, "batch *medium"]]:
        """Pictures in [0, 1], one at a time.

        Raises:
            DataError: none of a prompt's candidates could be scored; says why.
            ConfigError: a seed is too large to be multiplied.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one seed per prompt")
        starts = [seed * self.n for seed in seeds]
        if starts and max(starts) + self.n > _LARGEST_SEED:
            raise ConfigError(
                f"seed: {max(seeds)} is too large for the best of {self.n}; take one below 2^63 / {self.n}"
            )
        for picture, _, _ in _best(self.candidates, prompts, starts, self.reward, self.n, view):
            yield picture[None]


def _check(reward: Reward, n: int, medium: str) -> None:
    if n < 1:
        raise ConfigError(f"n: must be at least 1, got {n}")
    drawn, judged = "mesh" if medium == "volume" else "image", reward.spec.media
    what = MEDIA[judged].several if judged in MEDIA else judged
    if judged != drawn:
        raise ConfigError(f"reward: {reward.spec.name} judges {what}, and the model draws {MEDIA[drawn].several}")
    if reward.spec.level != "instance":
        raise ConfigError(f"reward: {reward.spec.name} judges {what} ({reward.spec.level}), not single {what}")
    more = [need for need in reward.spec.needs if need != "prompt"]
    if more:
        raise ConfigError(
            f"reward: {reward.spec.name} needs a {more[0]} beside each picture; what is drawn for a prompt has none, "
            "choose by another reward"
        )


def _best(
    generator: ImageGenerator, prompts: Sequence[str], starts: Sequence[int], reward: Reward, n: int, view: str
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Of each prompt the best picture, all scores [n] and which one it is, as soon as its last candidate is drawn."""
    texts = [prompt for prompt in prompts for _ in range(n)]
    seeds = [start + number for start in starts for number in range(n)]
    scores: list[float] = []
    best: Tensor | None = None
    chosen, why, done = -1, None, 0
    for batch in generator(texts, seeds, view=view):
        numbers = range(done, done + len(batch))
        output = reward.score(
            [
                Sample(picture, texts[number], id=f"seed {seeds[number]}")
                for number, picture in zip(numbers, batch, strict=True)
            ]
        )
        for number, picture, value, reason in zip(numbers, batch, output.values.tolist(), output.reasons, strict=True):
            if not math.isnan(value) and (best is None or value > scores[chosen]):  # of equal ones the first stays
                best, chosen = picture.clone(), len(scores)
            why = reason or why
            scores.append(value)
            if len(scores) == n:
                if best is None:
                    raise DataError(f"prompt {texts[number]!r}: none of {n} pictures could be scored: {why or 'NaN'}")
                yield best, torch.tensor(scores), chosen
                scores, best, chosen, why = [], None, -1, None
        done += len(batch)
