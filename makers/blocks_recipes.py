"""How the volume model of the zoo is made: the commands, and how long they take."""

from __future__ import annotations

from makers.shapes_recipes import Recipe, Step

RECIPES = {
    "blocks-volume": Recipe(
        "volume",
        "captioned objects of 16^3 voxels, about half of which stand; VolumePipeline (TRELLIS' first stage), linear flow",
        (Step("makers.blocks_volume", "--out {build}/blocks-volume --seed 0", "blocks-volume", 30),),
        "--guidance-scale 2",
        "makers.blocks_card",
    )
}
