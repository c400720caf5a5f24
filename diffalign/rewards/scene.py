"""Scenes of coloured shapes: the caption grammar, the renderer, the exact checker, and the reward made of them.

The zoo's image models draw captions such as "a red circle left of a blue square". This file is where all that such a
caption means is had from: `parse_caption` reads it, `render_scene` draws it, `check_scene` finds out from pixels alone
whether a picture shows it, and `SceneReward` says so of a batch.
"""

from __future__ import annotations

from typing import Literal

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards._scene_checker import Found, Verdict, check_scene, find_objects
from diffalign.rewards._scene_grammar import (
    COLOURS,
    NUMBERS,
    PLURALS,
    RELATIONS,
    SHAPES,
    Kind,
    Scene,
    Thing,
    captions,
    held_out_captions,
    is_held_out,
    parse_caption,
    training_captions,
)
from diffalign.rewards._scene_renderer import BACKGROUND, SIZE, holds, render_scene
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward

__all__ = [
    "BACKGROUND",
    "COLOURS",
    "NUMBERS",
    "PLURALS",
    "RELATIONS",
    "SHAPES",
    "SIZE",
    "Found",
    "Kind",
    "Scene",
    "SceneReward",
    "Thing",
    "Verdict",
    "captions",
    "check_scene",
    "find_objects",
    "held_out_captions",
    "holds",
    "is_held_out",
    "parse_caption",
    "render_scene",
    "training_captions",
]


class SceneReward(SampleReward):
    """Whether a picture shows what its caption says, decided exactly from the pixels.

    Range: strict 0 or 1; graded [0, 1], about 0.98 for a perfect picture and 0.2 for a blank one. Higher is better.
    Components: strict, graded, and the three parts of graded (objects, arrangement, clean). Differentiable: no.
    """

    components = ("strict", "graded", "objects", "arrangement", "clean")

    def __init__(self, *, form: Literal["strict", "graded"] = "strict") -> None:
        if form not in ("strict", "graded"):
            raise ConfigError(f"scene.form: must be 'strict' or 'graded', got {form!r}")
        self.form = form
        self.spec = RewardSpec(
            name="scene",
            version=f"2-{form}",
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 1.0),
            differentiable=False,
            licence="Apache-2.0",
            needs=("prompt",),
            source="diffalign's own scene checker",
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        scene = parse_caption(sample.prompt)
        if scene is None:
            raise DataError(
                f"the prompt {sample.prompt!r} is not of the scene grammar; "
                "write for example 'a red circle left of a blue square' or 'two green crosses'"
            )
        verdict = check_scene(pixels, scene)
        parts = {name: float(getattr(verdict, name)) for name in self.components}
        return parts[self.form], parts
