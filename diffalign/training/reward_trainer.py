"""One optimizer step of a reward: the pictures of some records, their heads, and what people said of them."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffalign.config import RewardRunConfig
from diffalign.config.reward_run import BradleyTerryTiesParams, RegressionParams
from diffalign.data import place_of, seeded
from diffalign.data.comparisons import ComparedRecord
from diffalign.exceptions import CheckpointError
from diffalign.rewards.pair_metrics import accuracy_with_ties, accuracy_without_ties, calibrate, verdicts
from diffalign.rewards.preference_loss import bradley_terry, bradley_terry_ties, regression
from diffalign.rewards.scorers import Scorer
from diffalign.training.checkpoint import Checkpoint, Progress
from diffalign.training.comparison_source import pixels_of
from diffalign.training.health import check_finite
from diffalign.training.learning_rate import learning_rate_factor
from diffalign.training.optimizer import build_optimizer

_CHUNK = 256  # pictures that are read, or scored without gradient, at a time


class Prepared:
    """All pictures and prompts of some records as a scorer keeps them, in memory.

    Attributes:
        records: as they were read.
        prompts: the different ones.
        starts: the number of each record's first picture, [records + 1].
        pictures, texts: as `Scorer.pictures` and `Scorer.texts` give them; `texts` by prompt, `text_of` says which.
        said: of every comparison and dimension, the shares of first and second [comparisons, dimensions, 2]; NaN: nothing.
    """

    def __init__(self, records: Sequence[ComparedRecord], scorer: Scorer, dimensions: Sequence[str]) -> None:
        self.records = records
        self.starts = np.cumsum([0, *(len(each.pictures) for each in records)])
        parts, waiting, digest = [], [], hashlib.sha256()
        for record in records:
            waiting += pixels_of(record)
            digest.update(repr((record.id, record.prompt, record.comparisons, record.rewards)).encode())
            if len(waiting) >= _CHUNK:
                parts.append(scorer.pictures(waiting))
                waiting = []
        if waiting:
            parts.append(scorer.pictures(waiting))
        self.pictures = torch.cat(parts)
        self.prompts = prompts = list(dict.fromkeys(record.prompt for record in records))
        rows = {prompt: row for row, prompt in enumerate(prompts)}
        self.text_of = np.array([rows[record.prompt] for record in records])
        self.texts = torch.cat([scorer.texts(prompts[at : at + _CHUNK]) for at in range(0, len(prompts), _CHUNK)])
        self._dimensions = tuple(dimensions)
        self.first, self.second, self.said, self.comparisons_of = self._compared()
        digest.update(self.pictures.numpy().tobytes())
        self.content_hash = digest.hexdigest()[:40]

    def _compared(self) -> tuple[Tensor, Tensor, Tensor, list[slice]]:
        first: list[int] = []
        second: list[int] = []
        said: list[list[tuple[float, float]]] = []
        slices: list[slice] = []
        nothing = (float("nan"), float("nan"))
        for start, record in zip(self.starts, self.records, strict=False):
            slices.append(slice(len(first), len(first) + len(record.comparisons)))
            for each in record.comparisons:
                first.append(int(start) + each.first)
                second.append(int(start) + each.second)
                said.append([each.said.get(name, nothing) for name in self._dimensions])
        return torch.tensor(first), torch.tensor(second), torch.tensor(said, dtype=torch.float32), slices

    @torch.no_grad()
    def scores(self, scorer: Scorer, device: torch.device) -> Tensor:
        """The heads of all pictures [pictures, dimensions], on the CPU."""
        text = torch.from_numpy(np.repeat(self.text_of, np.diff(self.starts)))
        parts = [
            scorer(self.pictures[at : at + _CHUNK].to(device), self.texts[text[at : at + _CHUNK]].to(device)).cpu()
            for at in range(0, len(self.pictures), _CHUNK)
        ]
        return torch.cat(parts)


class RewardTrainer:
    """Steps of a reward. Which records a step sees, and every draw, follow from the step and the seed."""

    def __init__(self, config: RewardRunConfig, scorer: Scorer, data: Prepared, device: torch.device) -> None:
        self.config, self.scorer, self.data, self.device = config, scorer.eval(), data, device  # eval: no dropout
        self.step, self.seconds = 0, 0.0
        self._parameters = [each for each in scorer.parameters() if each.requires_grad]
        self._optimizer = build_optimizer(config.optimizer, self._parameters)
        swapped = [swap_words(prompt, config.training.contrast_swaps) for prompt in data.prompts]
        self._has_opposite = [one != other for one, other in zip(swapped, data.prompts, strict=True)]
        self._texts = torch.cat([data.texts, scorer.texts(swapped)]) if any(self._has_opposite) else data.texts
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, learning_rate_factor(config))

    def train_step(self) -> dict[str, float]:
        """One optimizer step; its figures.

        Raises:
            DivergenceError: the loss or a gradient is not finite; the weights are as before.
        """
        started, count = time.monotonic(), self.config.training.records
        positions = range(self.step * count, (self.step + 1) * count)
        places = [place_of(position, len(self.data.records), self.config.seed) for position in positions]
        metrics = self._backward(places)
        ids = [self.data.records[number].id for _, number in places]
        check_finite(self.step + 1, metrics, ids)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.config.optimizer.max_grad_norm)
        metrics["gradient_norm"] = float(norm)  # before clipping
        check_finite(self.step + 1, {"gradient_norm": metrics["gradient_norm"]}, ids)
        metrics["learning_rate"] = float(self._schedule.get_last_lr()[0])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        self.step += 1
        metrics["seconds_per_step"] = time.monotonic() - started
        self.seconds += metrics["seconds_per_step"]
        return metrics

    def _backward(self, places: Sequence[tuple[int, int]]) -> dict[str, float]:
        data, numbers = self.data, [number for _, number in places]
        counts = [len(data.records[number].pictures) for number in numbers]
        starts = np.cumsum([0, *counts])
        pictures = torch.cat([self._pictures(epoch, number) for epoch, number in places])
        own = torch.from_numpy(np.repeat(data.text_of[numbers], counts))
        best, others = self._strangers(places, starts)
        seen = self.scorer.see(pictures.to(self.device))
        heads = self.scorer.judge(torch.cat([seen, seen[best]]), self._texts[torch.cat([own, others])].to(self.device))
        strange, heads = heads[len(own) :], heads[: len(own)]
        loss, metrics = self._loss(heads, numbers, starts)
        if len(best):
            head = self.config.contrast_head
            apart = heads[best, head] - strange[:, head]
            one = torch.ones_like(apart)
            contrast = bradley_terry(apart, first=one, second=0 * one).mean()
            metrics |= {"contrast": contrast.item(), "contrast_accuracy": (apart > 0).float().mean().item()}
            loss = loss + self.config.training.contrast * contrast
        metrics = {"loss": loss.item()} | metrics
        if torch.isfinite(loss):
            loss.backward()
        return metrics

    def _pictures(self, epoch: int, number: int) -> Tensor:
        """A record's pictures, moved as this epoch moves them; at the edges the last pixels are repeated."""
        first, end = self.data.starts[number], self.data.starts[number + 1]
        pictures, most = self.data.pictures[first:end], self.config.training.shift
        if not most:
            return pictures
        name = self.data.records[number].id
        down, right = torch.randint(
            0, 2 * most + 1, (2,), generator=seeded(self.config.seed, epoch, name, "shift")
        ).tolist()
        height, width = pictures.shape[-2:]
        rows = (torch.arange(height) + down - most).clamp(0, height - 1)
        columns = (torch.arange(width) + right - most).clamp(0, width - 1)
        return pictures[:, :, rows][..., columns]

    def _strangers(self, places: Sequence[tuple[int, int]], starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """For the contrast: rows of best pictures in the step, and the text that each is shown under beside its own."""
        training, rows, texts = self.config.training, [], []
        for place, (_, number) in enumerate(places if training.contrast else ()):
            best, own = self._best(number), int(self.data.text_of[number])
            if best is None:
                continue
            others = [places[(place + step) % len(places)][1] for step in range(1, training.contrast_others + 1)]
            told = [text for text in map(int, self.data.text_of[others]) if text != own]
            told += [len(self.data.texts) + own] if self._has_opposite[own] else []
            texts += told
            rows += [int(starts[place]) + best] * len(told)
        return torch.tensor(rows, dtype=torch.long), torch.tensor(texts, dtype=torch.long)

    def _best(self, number: int) -> int | None:
        """The picture of a record that wins most comparisons in the dimension of the contrast; None: none wins any."""
        record, won = self.data.records[number], np.zeros(len(self.data.records[number].pictures))
        said = self.data.said[self.data.comparisons_of[number], self.config.contrast_head].nan_to_num(0.0)
        for each, (first, second) in zip(record.comparisons, said.tolist(), strict=True):
            won[each.first] += first > second
            won[each.second] += second > first
        return int(won.argmax()) if won.any() else None

    def _loss(self, heads: Tensor, numbers: Sequence[int], starts: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        data, settings = self.data, self.config.loss
        slices = [data.comparisons_of[number] for number in numbers]
        moved = [
            torch.full((part.stop - part.start,), int(start - data.starts[number]))
            for number, part, start in zip(numbers, slices, starts, strict=False)
        ]
        rows = [
            (torch.cat([each[part] for part in slices]) + torch.cat(moved)).to(self.device)
            for each in (data.first, data.second)
        ]
        said = torch.cat([data.said[part] for part in slices]).to(self.device)
        difference = heads[rows[0]] - heads[rows[1]]
        there = ~said[..., 0].isnan()
        d, first, second = difference[there], said[..., 0][there], said[..., 1][there]
        told = first != second
        right = (d.detach() * (first - second) > 0)[told]
        metrics = {"accuracy": right.float().mean().item()} if len(right) else {}
        if isinstance(settings, RegressionParams):
            target = torch.tensor([value for number in numbers for value in data.records[number].rewards or ()])
            scored = ~target.isnan()
            value = heads[scored.to(self.device), 0]
            return regression(value, target=target[scored].to(value), huber_delta=settings.huber_delta).mean(), metrics
        if isinstance(settings, BradleyTerryTiesParams):
            return bradley_terry_ties(d, first=first, second=second, theta=settings.theta).mean(), metrics
        losses = bradley_terry(d, first=first, second=second)
        if settings.ties == "leave_out":
            return (losses * told).sum() / told.sum().clamp(min=1), metrics
        return losses.mean(), metrics

    # ------------------------------------------------------------ checkpoints

    def checkpoint(self) -> Checkpoint:
        """All that the next step depends on; no generator is among it, because every draw is seeded by what it is for."""
        trainer: dict[str, Any] = {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "data": self.data.content_hash,
        }
        return Checkpoint(Progress(self.step, self.seconds), {"policy": self.scorer.state_dict()}, trainer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, to the bit.

        Raises:
            CheckpointError: it is of another network, or of other records.
        """
        step = checkpoint.progress.step
        if checkpoint.trainer["data"] != self.data.content_hash:
            raise CheckpointError(
                f"the records, or the CLIP, are not those that step {step} was trained with; start a new run"
            )
        try:
            self.scorer.load_state_dict(dict(checkpoint.adapters["policy"]))
            self._optimizer.load_state_dict(checkpoint.trainer["optimizer"])
            self._schedule.load_state_dict(checkpoint.trainer["schedule"])
        except (ValueError, LookupError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint of step {step} does not fit the run's config.yaml: {error}"
            ) from None
        self.step, self.seconds = step, checkpoint.progress.seconds


def swap_words(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The text with each word of a pair in the other's place; as it was where it has none of them."""
    other = {word: its for a, b in pairs for word, its in ((a, b), (b, a))}
    return re.sub(r"[^\W_]+", lambda found: other.get(found[0].lower(), found[0]), text)


def measure(
    scorer: Scorer, data: Prepared, dimensions: Sequence[str], device: torch.device
) -> dict[str, dict[str, Any]]:
    """Of each dimension, how well its head agrees with the comparisons: see `diffalign.rewards.pair_metrics`."""
    heads = data.scores(scorer, device).double()
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(dimensions):
        there = ~data.said[:, number, 0].isnan()
        if not there.any():
            continue
        difference = (heads[data.first, number] - heads[data.second, number])[there].numpy()
        first, second = data.said[there, number].double().numpy().T
        verdict = verdicts(first, second)
        plain, told = accuracy_without_ties(difference, verdict)
        tied, threshold = accuracy_with_ties(difference, verdict)
        fit = calibrate(difference, first, second, temperature=1.0)
        found[name] = {
            "comparisons": len(verdict),
            "ties": len(verdict) - told,
            "accuracy": plain,
            "accuracy_with_ties": tied,
            "tie_threshold": threshold,
            "calibration_error": fit.error,
            "cross_entropy": fit.loss,
        }
    return found
