"""A small SDXL and a small Pick-a-Pic, to go through a whole run with before the real ones are downloaded.

    python -m makers.rehearsal rehearsal

writes `rehearsal/sdxl` (a diffusers folder: SDXL's architecture in small, random weights), `rehearsal/pickapic` (a parquet
file with Pick-a-Pic's columns) and `rehearsal/prompts.txt`. The pictures are the zoo's drawings: the one that shows more of
its caption is the preferred one. The model has learned nothing, so what it draws is noise before and after: a rehearsal
shows that every step works, not that training helps.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from safetensors import safe_open
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.cli.app import quiet_libraries
from diffalign.pipelines import to_picture
from diffalign.zoo import locate
from makers.tiny_pipelines import save_sdxl

ZOO = "zoo://shapes-sd"
HELD_OUT = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--pairs", type=int, default=64)
    options = parser.parse_args()
    if options.out.exists():
        raise SystemExit(f"{options.out} exists; name a new folder")
    quiet_libraries()
    save_sdxl(options.out / "sdxl")
    rows, prompts = drawings(options.pairs)
    home = options.out / "pickapic"
    home.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), home / "train-00000-of-00001.parquet")
    (options.out / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    print(f"{options.out}/sdxl, {options.out}/pickapic ({len(rows)} pairs), {options.out}/prompts.txt")


def drawings(count: int) -> tuple[list[dict[str, object]], list[str]]:
    """Rows with Pick-a-Pic's columns, and captions that are in none of them."""
    backbone = load_backbone("sd", ZOO)
    with safe_open(locate(f"{ZOO}/preferences"), framework="pt") as file:
        latents, numbers = file.get_tensor("latents").float(), file.get_tensor("prompt").tolist()
        prompts: list[str] = json.loads(file.metadata()["prompts"])
    rows: list[dict[str, object]] = []
    for group in range(count):
        best, worst = backbone.decode(latents[group, [0, -1]])
        swapped = group % 2 == 1
        first, second = (worst, best) if swapped else (best, worst)
        label = 0.5 if group % 8 == 7 else float(not swapped)  # one in eight is a tie, as people leave them
        rows.append(
            {
                "jpg_0": jpeg(first),
                "jpg_1": jpeg(second),
                "label_0": label,
                "label_1": 1 - label,
                "caption": prompts[numbers[group]],
                "ranking_id": group,
            }
        )
    seen = {row["caption"] for row in rows}
    return rows, [prompt for prompt in prompts if prompt not in seen][:HELD_OUT]


def jpeg(picture: Tensor) -> bytes:
    content = io.BytesIO()
    to_picture(picture).save(content, "JPEG", quality=95)
    return content.getvalue()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
