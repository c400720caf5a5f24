"""`diffalign train` on tiny SDXL and FLUX pipelines in folders, with pairs of pictures of different sizes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from diffalign.cli.app import app
from diffalign.config import parse_config
from diffalign.config.yaml_values import write_yaml
from diffalign.training import load_run, train
from diffalign.training.build import build_backbone, build_time
from diffalign.training.build_data import build_data
from tests.backbones.models import OPTIONS, diffusers_pictures, diffusers_pipeline, folder_of, path_of
from tests.data.pictures import picture_file, write_rows
from tests.training.tiny import adapter, rows, tiny, tiny_settings

FAMILIES = ("sdxl", "flux")
SIZES = [((48, 32), (32, 32)), ((64, 40), (33, 70)), ((20, 32), (90, 64)), ((32, 32), (32, 32))]  # width, height
PROMPTS = ["a red circle", "two blue crosses"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pairs")
    listed = []
    for number, sizes in enumerate(SIZES):
        names = [f"{number}{letter}.png" for letter in "ab"]
        for member, (name, size) in enumerate(zip(names, sizes, strict=True)):
            (home / name).write_bytes(picture_file(40 * number + 100 * member, size))
        listed.append({"id": f"r{number}", "prompt": f"a circle {number}", "chosen": names[0], "rejected": names[1]})
    write_rows(home / "metadata.jsonl", listed)
    return home


def settings(home: Path, pairs: Path, family: str, **training: Any) -> dict[str, Any]:
    objective = {"name": "flow_dpo"} if family == "flux" else {"name": "diffusion_dpo", "beta": 500.0}
    model = {"family": family, "path": path_of(family), "lora": {"rank": 4, "alpha": 10}, **OPTIONS[family]}
    base = tiny_settings(
        home,
        data={"path": str(pairs), "resolution": 32, "flip": True, "empty_prompt_share": 0.2},
        objective=objective,
        optimizer={"learning_rate": 0.01},
        training={"steps": 2, "groups": 2, **training},
        evaluation={"guidance_scale": 2.0},
    )
    return base | {"model": model}


def trained(home: Path, pairs: Path, family: str, **training: Any) -> Path:
    """The folder of a run from the command line."""
    config = home / f"{family}.yaml"
    config.write_text(write_yaml(settings(home, pairs, family, **training)), encoding="utf-8")
    result = CliRunner().invoke(app, ["train", "--config", str(config)])
    assert result.exit_code == 0, result.exception
    return Path(result.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module", params=FAMILIES)
def run_of(request, pairs, tmp_path_factory) -> tuple[str, Path]:
    home = tmp_path_factory.mktemp(request.param)
    return request.param, trained(home, pairs, request.param)


def test_training_starts_at_log_two_and_moves(run_of):
    _, folder = run_of
    steps = rows(folder)
    assert [row["step"] for row in steps] == [1, 2]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[0]["gradient_norm"] > 0
    assert all(abs(value).max() > 0 for name, value in adapter(folder).items() if "lora_B" in name)


def test_the_adapter_draws_the_same_in_diffusers(run_of):
    """A fresh pipeline and `load_lora_weights(folder)`: nothing else is told."""
    family, folder = run_of
    told = {"num_inference_steps": 3, "guidance_scale": 2.0}
    pipeline = diffusers_pipeline(family)
    base = diffusers_pictures(pipeline, family, PROMPTS, [1, 2], "latent", **told)
    pipeline.load_lora_weights(folder / "adapter")
    aligned = diffusers_pictures(pipeline, family, PROMPTS, [1, 2], "latent", **told)
    assert (aligned - base).abs().max() > 0.01
    run = load_run(folder)
    generator = type(run.generator).create(run.backbone, like=run.generator, steps=3)
    ours = next(generator.latents(PROMPTS, [1, 2], view=run.view))
    torch.testing.assert_close(ours, aligned, rtol=1e-4, atol=1e-4)


def test_two_passes_keep_each_picture_s_own_crop(run_of, pairs, tmp_path):
    """Chunks of single samples carry the same conditions: the same losses and gradients."""
    family, folder = run_of
    again = trained(tmp_path, pairs, family, two_pass=True, max_batch=1)
    for name in ("loss", "gradient_norm", "winner_error", "loser_error"):
        assert [row[name] for row in rows(again)] == pytest.approx([row[name] for row in rows(folder)], rel=1e-3)


def test_a_reference_bank_gives_the_same_run(run_of, pairs, tmp_path):
    family, folder = run_of
    again = trained(tmp_path, pairs, family, reference_bank=1)
    assert [row["loss"] for row in rows(again)] == pytest.approx([row["loss"] for row in rows(folder)], rel=1e-4)


def test_sdxl_is_told_each_picture_s_size_and_crop(pairs, tmp_path):
    config = tiny(tmp_path, **settings(tmp_path, pairs, "sdxl"))
    backbone = build_backbone(config, torch.device("cpu"))
    for _ in range(2):  # the second time from the cache
        data = build_data(config, backbone)
        numbers = {name: number for number, (name, _) in enumerate(data.records)}
        leaf = data.batch([(0, numbers["r0"]), (0, numbers["r1"])]).condition.leaves["time_ids"]
        assert leaf[0].tolist() == [[32, 48, 0, 8, 32, 32], [32, 32, 0, 0, 32, 32]]
        height_resized = round(70 * 32 / 33)
        assert leaf[1, 1].tolist() == [70, 33, (height_resized - 32) // 2, 0, 32, 32]
    assert (
        build_data(tiny(tmp_path, **settings(tmp_path, pairs, "flux")), flux_backbone(tmp_path, pairs)).crop_leaf
        is None
    )


def flux_backbone(home: Path, pairs: Path):
    return build_backbone(tiny(home, **settings(home, pairs, "flux")), torch.device("cpu"))


@pytest.mark.parametrize(("resolution", "tokens"), [(32, 16), (64, 64)])
def test_times_of_flux_may_be_drawn_as_its_scheduler_shifts_them(pairs, tmp_path, resolution, tokens):
    told = settings(tmp_path, pairs, "flux") | {"time": {"sampling": "shifted", "shift": "model"}}
    told["data"] |= {"resolution": resolution}
    shift = build_time(tiny(tmp_path, **told), flux_backbone(tmp_path, pairs)).shift
    assert shift == pytest.approx(math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)))


def test_model_options_reach_the_adapter(pairs, tmp_path):
    told = settings(tmp_path, pairs, "flux")
    told["model"] |= {"guidance": 3.5, "max_sequence_length": 7}
    backbone = build_backbone(tiny(tmp_path, **told), torch.device("cpu"))
    assert backbone._guidance == 3.5
    assert backbone.text([""])["states"].shape[1] == 7


def test_pictures_are_drawn_from_the_command_line(run_of, tmp_path):
    family, folder = run_of
    told = ["generate", "-p", "a red circle", "-o", str(tmp_path / "out"), "--run", str(folder)]
    result = CliRunner().invoke(app, [*told, "--steps", "2"])
    assert result.exit_code == 0, result.exception
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert (row["resolution"], row["steps"]) == (32, 2)
    assert row["sampler"] == ("FlowEuler" if family == "flux" else "DDIM")


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_zero_terminal_snr_checkpoints_train(family, pairs, tmp_path):
    """Their networks predict v. At the last time there is no signal at all, and with two times it is soon drawn."""
    folder = shutil.copytree(folder_of(family), tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text()) | told | {"num_train_timesteps": 2}))
    base = settings(tmp_path, pairs, "sdxl")
    model = base["model"] | {"family": family, "path": str(folder)}
    evaluation = {"sampler": {"name": "ddim", "steps": 2}}
    run = train(parse_config(base | {"model": model, "evaluation": evaluation}), progress=False)
    assert run.backbone.process.alpha(torch.ones(1)) == 0
    assert rows(run.folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert all(math.isfinite(value) for row in rows(run.folder) for value in row.values() if isinstance(value, float))
