"""GenEval as a reward: are the objects, counts, colours and positions there that a prompt asks for?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards._scene_checker import find_objects
from diffalign.rewards._scene_grammar import Scene, parse_caption
from diffalign.rewards._scene_renderer import SIZE
from diffalign.rewards.geneval_rules import (
    Detection,
    Requirements,
    keep_detections,
    read_requirements,
    soft_score,
    strict_score,
)
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward, own_version

__all__ = ["GenEvalReward", "detect_shapes", "scene_requirements"]

_FORMS = ("strict", "soft", "flow_grpo")


class GenEvalReward(SampleReward):
    """Whether a detector finds in a picture what its requirements ask for, by GenEval's rules.

    Requirements are the sample's metadata, in the published format (see `geneval_rules`); the shapes detector also takes
    them out of a caption of the scene grammar, where the metadata have none.

    Range: strict 0 or 1; soft [0, 1], the share of what is asked that is there; flow_grpo as Flow-GRPO's code counts it,
    below 0 where far too many objects are. Higher is better. Components: strict, soft and found, the number of objects
    that count. Differentiable: no.
    Source: Ghosh et al. 2023, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment".

    Example:
        `GenEvalReward(detect=my_detector)(pictures, metadata=[{"tag": "single_object", "include": [...]}])`
    """

    components = ("strict", "soft", "found")

    def __init__(
        self,
        *,
        form: Literal["strict", "soft", "flow_grpo"] = "strict",
        detector: Literal["shapes"] = "shapes",
        detect: Callable[[Pixels], Sequence[Detection]] | None = None,
        detect_version: str | None = None,
    ) -> None:
        """Say how to count, and who looks.

        Args:
            form: which score.
            detector: the zoo's coloured shapes, found exactly.
            detect: another one in its place, from uint8 [height, width, 3] to what it sees, colours too. The published
                figures are of Mask2Former (Swin-S, COCO) with CLIP ViT-L/14 for the colours.
            detect_version: what kept scores know it by, to be changed with it; None: they end with this object.

        Raises:
            ConfigError: names the argument.
        """
        if form not in _FORMS:
            raise ConfigError(f"geneval.form: must be 'strict', 'soft' or 'flow_grpo', got {form!r}")
        if detector != "shapes":
            raise ConfigError(f"geneval.detector: must be 'shapes', got {detector!r}; detect takes one of your own")
        self.form, self._own = form, detect
        self.spec = RewardSpec(
            name="geneval",
            version=f"1-{detector if detect is None else own_version(detect_version)}-{form}",
            media="image",
            level="instance",
            unit="1",
            range=(float("-inf") if form == "flow_grpo" else 0.0, 1.0),
            differentiable=False,
            licence="Apache-2.0" if detect is None else "Apache-2.0; the detector's own",
            needs=("prompt",) if detect is None else ("metadata",),
            reads=("metadata",) if detect is None else (),
            source='Ghosh et al. 2023, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment"',
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        wanted = self._wanted(sample)
        kept = keep_detections((self._own or detect_shapes)(pixels), wanted.tag)
        parts = {
            "strict": strict_score(wanted, kept),
            "soft": soft_score(wanted, kept),
            "found": float(sum(map(len, kept.values()))),
        }
        value = soft_score(wanted, kept, like_flow_grpo=True) if self.form == "flow_grpo" else parts[self.form]
        return value, parts

    def _wanted(self, sample: Sample) -> Requirements:
        if self._own is None and sample.metadata.get("include") is None:
            scene = parse_caption(sample.prompt)
            if scene is None:
                raise DataError(
                    f"no requirements: metadata have no include, and the prompt {sample.prompt!r} is not of the scene "
                    "grammar, as 'a red circle left of a blue square' is"
                )
            return read_requirements(scene_requirements(scene))
        return read_requirements(sample.metadata)


def detect_shapes(pixels: Pixels) -> list[Detection]:
    """The zoo's coloured shapes in a picture; fragments and colours off the palette are none. Sure of all that it finds."""
    height, width = pixels.shape[:2]
    return [
        Detection(one.shape, 1.0, _scaled(one.box, width / SIZE, height / SIZE), one.colour)
        for one in find_objects(pixels)
        if one.shape is not None
    ]


def _scaled(box: tuple[float, float, float, float], across: float, down: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left * across, top * down, right * across, bottom * down


def scene_requirements(scene: Scene) -> Mapping[str, Any]:
    """What a caption of the zoo asks for, in GenEval's format.

    Raises:
        DataError: two things of one shape: the rules take the surest objects of a class, whichever they are.
    """
    names = [thing.shape for thing in scene.things]
    if len(set(names)) < len(names):
        raise DataError(f"GenEval's rules cannot tell two things of one class apart, here two of {names[0]!r}")
    things = scene.things[::-1]  # the one that the relation is seen from stands first
    entries: list[dict[str, Any]] = [
        {"class": thing.shape, "count": thing.count, "color": thing.colour} for thing in things
    ]
    if scene.relation is not None:
        entries[1]["position"] = [scene.relation, 0]
    tags = {"single": "colors", "count": "counting", "both": "color_attr", "relation": "position"}
    exclude = [{"class": thing.shape, "count": thing.count + 1} for thing in scene.things if scene.kind == "count"]
    return {"tag": tags[scene.kind], "include": entries, "exclude": exclude}
