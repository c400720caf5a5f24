"""Base against aligned on the same prompts and seeds, with every reward, to files that the report reads."""

from __future__ import annotations

import difflib
import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.geometry import compare_shapes
from diffalign.evaluation.reward_figures import corrected_figures, plain_number, reward_figures
from diffalign.exceptions import ConfigError, SaveError
from diffalign.pipelines import ImageGenerator, is_grid, replace_folder, save_picture, to_picture
from diffalign.rewards import BatchReward, RewardOutput, Sample, build_reward
from diffalign.rewards.functional import picture_diversity, thumbnails

log = logging.getLogger(__name__)
DIVERSITY = (
    "mean RMS distance between pictures of different prompts, values in [0, 1], as thumbnails of at most 64 pixels"
)
DIVERSITY_OF_SHAPES = "mean over two shapes of different prompts of 1 - IoU, of the cells that they fill"
Progress = Callable[[int, int], None]


def evaluate(
    generator: ImageGenerator,
    prompts: Sequence[str],
    config: EvaluationConfig,
    run: Path,
    *,
    view: str = "policy",
    trained_on: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw base and aligned pictures, score both, and write `run/evaluation/`.

    Prompt number i is drawn with the seed `config.seed + i` by both models; with `config.members` the prompts come again so
    often, and the seeds go on: `config.seed + len(prompts) + i` and so forth.

    Args:
        generator: draws the pictures; its backbone holds both models.
        prompts: held-out prompts.
        config: rewards, members, seed, confidence.
        run: the run folder.
        view: the aligned model's view; the base is "reference".
        trained_on: names of the rewards that the run learnt from; None: `config.trained_reward`.
        progress: told (pictures done, pictures in all).

    Returns:
        The content of `evaluation/summary.json`.

    Raises:
        ConfigError: no prompts.
        SaveError: it cannot be written; what was there before is unharmed.
    """
    if not prompts:
        raise ConfigError(
            "evaluation.prompts: names no prompts to compare on; set it to a .txt, a .jsonl or zoo://NAME/held_out"
        )
    check_quality(config)
    draft = run / ".evaluation.partial"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        named = () if config.trained_reward is None else (config.trained_reward,)
        learnt = named if trained_on is None else trained_on
        summary = _draw_and_score(generator, prompts, config, draft, view, learnt, progress)
        replace_folder(draft, run / "evaluation")
    except OSError as error:
        raise SaveError(
            f"{run / 'evaluation'}: cannot be written ({error.strerror or error}); free some space and compare again with "
            f"diffalign eval {run}"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return summary


def _draw_and_score(
    generator: ImageGenerator,
    prompts: Sequence[str],
    config: EvaluationConfig,
    draft: Path,
    view: str,
    trained_on: Collection[str],
    progress: Progress | None,
) -> dict[str, Any]:
    """All that stands in the folder `draft`, and the content of its summary.json."""
    started = time.monotonic()
    prompts = list(prompts) * config.members
    seeds = [config.seed + number for number in range(len(prompts))]
    rewards = [build_reward(params) for params in config.rewards]
    scored: dict[str, list[list[RewardOutput]]] = {reward.spec.name: [] for reward in rewards}
    small: dict[str, Tensor] = {}  # thumbnails: the pictures themselves leave memory batch by batch
    for side, name in (("base", "reference"), ("aligned", view)):
        (draft / side).mkdir(parents=True)
        kept: list[Tensor] = []
        done = 0
        for each in scored.values():
            each.append([])
        for batch in generator(prompts, seeds, view=name):
            samples = [
                Sample(pixels, prompts[number], id=f"{side}-{number:05d}") for number, pixels in enumerate(batch, done)
            ]
            for number, sample in enumerate(samples, done):
                save_picture(to_picture(sample.media), draft / side / f"{number:05d}.png")
            for reward in rewards:
                scored[reward.spec.name][-1].append(reward.score(samples))
            kept.append(thumbnails(batch))
            done += len(batch)
            if progress is not None:
                progress(len(small) * len(prompts) + done, 2 * len(prompts))
        small[side] = torch.cat(kept)
    scores = {name: (_joined(base), _joined(aligned)) for name, (base, aligned) in scored.items()}
    summary = {
        "prompts": len(set(prompts)),
        "members": config.members,
        "pictures": len(prompts),
        "seed": config.seed,
        "guidance_scale": generator.guidance_scale,
        "sampler": {"name": type(generator.sampler).__name__, "steps": len(generator.times) - 1},
        "confidence": config.confidence,
        "resamples": config.resamples,
        "trained_reward": config.trained_reward,
        "rewards": {
            reward.spec.name: {"trained_on": reward.spec.name in trained_on}
            | reward_figures(reward.spec, scores[reward.spec.name], prompts, config)
            for reward in rewards
        },
        "corrected": corrected_figures(scores, prompts, config),
        "diversity": {
            "measure": DIVERSITY_OF_SHAPES if is_grid(small["base"][0]) else DIVERSITY,
            "base": picture_diversity(small["base"], prompts),
            "aligned": picture_diversity(small["aligned"], prompts),
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    if is_grid(small["base"][0]):
        summary["geometry"] = compare_shapes(small["base"], small["aligned"], prompts, config)
    with (draft / "records.jsonl").open("w", encoding="utf-8") as file:
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            row = {
                "id": f"{number:05d}",
                "prompt": prompt,
                "seed": seed,
                "base": f"evaluation/base/{number:05d}.png",
                "aligned": f"evaluation/aligned/{number:05d}.png",
                "rewards": {
                    name: [plain_number(side.values[number]) for side in both] for name, both in scores.items()
                },
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (draft / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _joined(batches: Sequence[RewardOutput]) -> RewardOutput:
    return RewardOutput(
        values=torch.cat([batch.values for batch in batches]),
        reasons=tuple(reason for batch in batches for reason in batch.reasons),
        components={name: torch.cat([batch.components[name] for batch in batches]) for name in batches[0].components},
    )


def check_quality(config: EvaluationConfig) -> None:
    """Whether the section's quality term is one that its reward gives.

    Raises:
        ConfigError: it is not; lists what there is.
    """
    if config.quality is None:
        return
    judge, _, component = config.quality.partition(".")
    for reward in map(build_reward, config.rewards):
        if reward.spec.name == judge and isinstance(reward, BatchReward) and component not in reward.components:
            close = difflib.get_close_matches(component, reward.components, n=1)
            hint = f"; did you mean {judge}.{close[0]}?" if close else ""
            raise ConfigError(
                f"evaluation.quality: {judge!r} has no component {component!r}; "
                f"it has {', '.join(reward.components)}{hint}"
            )
