"""How the emoji model of the zoo is made: the commands, in order, and how long they take."""

from __future__ import annotations

from makers.shapes_recipes import Recipe, Step

RECIPES = {
    "emoji-sd3": Recipe(
        "sd3",
        "emoji by their Unicode names, 32x32 pixels; StableDiffusion3Pipeline, linear flow",
        (
            Step("makers.emoji_vae", "--out {build}/emoji-vae --seed 0", "emoji-vae"),
            Step("makers.emoji_sd3", "--vae {build}/emoji-vae --out {build}/emoji-sd3 --seed 0", "emoji-sd3", 16),
            Step(
                "makers.emoji_preferences",
                "--model {build}/emoji-sd3 --out {build}/emoji-sd3/preferences.safetensors",
                "emoji-sd3/preferences.safetensors",
            ),
        ),
        "--recognised 18",
        "makers.emoji_card",
    )
}
