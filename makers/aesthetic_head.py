"""Rebuild diffalign/rewards/laion_aesthetic.safetensors, the head of the aesthetic reward: five layers made one.

    python -m makers.aesthetic_head sac+logos+ava1-l14-linearMSE.pth

The file is christophschuhmann/improved-aesthetic-predictor's (3.7 MB, Apache-2.0). Seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

TARGET = Path(__file__).parent.parent / "diffalign" / "rewards" / "laion_aesthetic.safetensors"
LAYERS = (0, 2, 4, 6, 7)  # the others drop out in training


def collapsed(layers: Sequence[tuple[Float[Tensor, "out in"], Float[Tensor, " out"]]]) -> tuple[Tensor, Tensor]:
    """Affine maps one after another as one: weight [out, in] and bias [out], in float64."""
    weight, bias = (each.double() for each in layers[0])
    for matrix, offset in layers[1:]:
        weight, bias = matrix.double() @ weight, matrix.double() @ bias + offset.double()
    return weight, bias


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    state = torch.load(options.weights, "cpu", weights_only=True)
    weight, bias = collapsed([(state[f"layers.{n}.weight"], state[f"layers.{n}.bias"]) for n in LAYERS])
    metadata = {
        "bias": json.dumps(bias.item()),
        "source": "christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE.pth, its layers made one",
        "sha256": hashlib.sha256(options.weights.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
    }
    save_file({"weight": weight[0].float()}, options.out, metadata=metadata)
    print(options.out, f"length {weight.norm():.4f}, bias {bias.item():.4f}")


if __name__ == "__main__":
    main()
