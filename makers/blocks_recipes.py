"""How the volume model of the zoo is made: the commands, and how long they take."""

from __future__ import annotations

from makers.shapes_recipes import Recipe, Step

RECIPES = {
    "blocks-volume": Recipe(
        "volume",
        "captioned objects of 16^3 voxels, about half of which stand; VolumePipeline (TRELLIS' first stage), linear flow",
        (
            Step("makers.blocks_volume", "--out {build}/blocks-1 --seed 0", "blocks-1", 24),
            # what it draws stands more often than what it was shown: show it more that topples
            Step(
                "makers.blocks_volume",
                "--start {build}/blocks-1-state.pt --standing 0.35 --objects 12000 --steps 2900 --stop 2900 --seed 1 "
                "--out {build}/blocks-volume",
                "blocks-volume",
                6,
            ),
        ),
        "--guidance-scale 2",
        "makers.blocks_card",
    )
}
