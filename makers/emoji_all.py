"""Rebuild `emoji-sd3` from nothing: autoencoder, denoiser, preference set, card.

    python -m makers.emoji_all emoji-sd3         # into build/emoji-sd3; the denoiser takes 16 minutes of one CPU thread
    python -m makers.emoji_all emoji-sd3 --dry   # only print the commands

Needs Debian's fonts-noto-color-emoji. What is there already is kept and its command passed over: delete a folder to make
it anew. The card is always written.
"""

from __future__ import annotations

from makers.emoji_recipes import RECIPES
from makers.shapes_all import main

if __name__ == "__main__":
    main(__doc__, RECIPES)
