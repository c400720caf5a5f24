"""Settings of every reward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.params import Params


class SceneParams(Params):
    """Does the picture show its caption: colour, shape, count and position, checked exactly on the pixels."""

    name: Literal["scene"] = "scene"
    form: Literal["strict", "graded"] = "strict"  # all or nothing, or how much of the caption is there


class JPEGParams(Params):
    """Size of the picture as a JPEG file, in kB: small for smooth pictures."""

    name: Literal["jpeg"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    direction: Literal["compressible", "incompressible"] = "compressible"  # the sign: -kB or +kB


class EmojiParams(Params):
    """Does the picture look more like the emoji that its prompt names than like any other of the zoo's."""

    name: Literal["emoji"] = "emoji"
    form: Literal["strict", "reciprocal", "likeness"] = "strict"  # first or not, one over its place, or how alike


REWARD_PARAMS: tuple[type[Params], ...] = (SceneParams, JPEGParams, EmojiParams)

RewardParams = Annotated[SceneParams | JPEGParams | EmojiParams, Field(discriminator="name")]
