"""Rebuild `blocks-volume` from nothing: the flow and its text encoder, the card.

    python -m makers.blocks_all blocks-volume         # into build/blocks-volume; takes 30 minutes of one CPU thread
    python -m makers.blocks_all blocks-volume --dry   # only print the commands

What is there already is kept and its command passed over: delete a folder to make it anew. The card is always written.
"""

from __future__ import annotations

from makers.blocks_recipes import RECIPES
from makers.shapes_all import main

if __name__ == "__main__":
    main(__doc__, RECIPES)
