"""The packaged configs of full-size models, on tiny models of their family and a parquet file as Pick-a-Pic's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from diffalign.config import load_config
from diffalign.training import train
from tests.backbones.models import path_of
from tests.data.pictures import picture_file
from tests.training.tiny import rows

SMALLER = [  # what a test has no time, memory or GPU for
    "device=cpu",
    "data.resolution=32",
    "model.precision=fp32",
    "training.mixed_precision=no",
    "training.steps=2",
    "training.groups=1",
    "training.accumulation=2",
    "optimizer.warmup_steps=0",
]


@pytest.fixture(scope="module")
def pick_a_pic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its columns; pictures of several sizes, and a tie."""
    table = [
        {
            "jpg_0": picture_file(10 * number, (32 + 8 * number, 40), "JPEG"),
            "jpg_1": picture_file(200, (40, 33), "JPEG"),
            "label_0": label,
            "caption": f"a circle {number}",
            "ranking_id": number,
        }
        for number, label in enumerate((1.0, 0.0, 0.5, 1.0))
    ]
    home = tmp_path_factory.mktemp("pick-a-pic")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), home / "train-00000-of-00001.parquet")
    return home


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of two with raw PickScore cosines."""
    home = tmp_path_factory.mktemp("scored")
    rewards = [[0.2231, 0.2104], [0.2187, 0.2410], [0.2050, 0.2050]]
    lines = []
    for number, pair in enumerate(rewards):
        items = [f"{number}{side}.jpg" for side in "ab"]
        for item, level in zip(items, (30 * number, 200), strict=True):
            (home / item).write_bytes(picture_file(level, (40, 33), "JPEG"))
        lines.append(json.dumps({"prompt": f"a circle {number}", "items": items, "rewards": pair}))
    (home / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return home


@pytest.mark.parametrize("name", ["sdxl_dpo.yaml", "sdxl_dpo_lora_24gb.yaml", "flux_dpo_lora.yaml", "sdxl_smpo.yaml"])
def test_config_trains_a_tiny_model(name, pick_a_pic, scored, tmp_path):
    family, kind = load_config(name).model.family, load_config(name).data.kind
    records = {"pairs": pick_a_pic, "groups": scored}[kind]
    places = [f"model.path={path_of(family)}", f"data.path={records}", f"folder={tmp_path / 'runs'}"]
    run = train(load_config(name, [*places, *SMALLER]), progress=False)
    steps = rows(run.folder)
    assert [row["step"] for row in steps] == [1, 2]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    trained = {"lora": "adapter/pytorch_lora_weights", "full": "model/unet/diffusion_pytorch_model"}[
        run.config.model.train
    ]
    assert (run.folder / f"{trained}.safetensors").is_file()
