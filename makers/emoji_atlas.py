"""Write what the emoji reward knows of the designers' pictures: a description of each, and its name.

python -m makers.emoji_atlas --out diffalign/rewards/emoji.safetensors        # seconds
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from diffalign.rewards.emoji import describe_picture
from makers.emoji_pictures import draw_emoji, emoji


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    options = parser().parse_args()
    chosen = emoji()
    described = np.stack([describe_picture(picture) for picture in draw_emoji(chosen).permute(0, 2, 3, 1).numpy()])
    about = {
        "names": json.dumps([one.name for one in chosen]),
        "pictures": "Noto Color Emoji, Copyright Google Inc., SIL Open Font License 1.1",
    }
    save_file({"descriptions": described}, options.out, metadata=about)


if __name__ == "__main__":
    main()
