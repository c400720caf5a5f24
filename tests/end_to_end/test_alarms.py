"""Every alarm, rung by a real run on the zoo: with warn the run goes on, with stop it saves and ends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffalign.data import save_latents
from diffalign.training.checkpoint import list_checkpoints
from diffalign.zoo import locate
from tests.end_to_end.bad_input import Outcome, call, settings_file
from tests.training.tiny import adapter, rows

GROUPS = 600  # of the zoo's own drawings, four each
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]

# what spoils a run: alarm -> settings
SPOILT: dict[str, dict[str, Any]] = {
    "winner_error_rising": {  # far too fast, and hardly any pull to the reference
        "objective": {"name": "diffusion_dpo", "beta": 1.0},
        "optimizer": {"learning_rate": 0.03},
        "training": {"steps": 12, "groups": 2},
    },
    "saturation": {  # the same four pairs at every step
        "model": {"lora": {"rank": 8, "alpha": 8, "targets": LAYERS}},
        "objective": {"name": "diffusion_dpo", "beta": 2000.0},
        "optimizer": {"learning_rate": 2e-3},
        "training": {"steps": 45, "groups": 4},
    },
}


@pytest.fixture(scope="module")
def four_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "four.safetensors"
    _subset(path, slice(0, 4), None)
    return path


def _subset(path: Path, groups: slice, scores: torch.Tensor | None) -> None:
    """Some of the zoo's groups, ranked by `scores` in the place of the scene checker's."""
    import json

    with safe_open(locate("zoo://shapes-sd/preferences"), framework="pt") as file:
        x0, rewards = file.get_tensor("latents")[groups].float(), file.get_tensor("rewards")[groups]
        numbers, about = file.get_tensor("prompt").tolist()[groups], file.metadata()
    if scores is not None:
        order = scores.argsort(dim=1, descending=True, stable=True)
        x0, rewards = x0[torch.arange(len(x0))[:, None], order], scores.gather(1, order)
    save_latents(path, x0, rewards, json.loads(about["prompts"]), numbers, {"autoencoder": about["autoencoder"]})


def start(home: Path, health: dict[str, Any], **sections: Any) -> tuple[Outcome, Path]:
    seen = call("train", "-c", settings_file(home, health=health, **sections))
    (folder,) = (home / "runs").iterdir()
    assert "Traceback" not in seen.err
    return seen, folder


def check_warned(seen: Outcome, folder: Path, alarm: str, steps: int) -> None:
    """Told once on stderr, in metrics.jsonl and in the report; and the run is whole."""
    assert seen.code == 0, seen.err
    told = [row for row in rows(folder, "alarm") if row["alarm"] == alarm]
    assert {row["action"] for row in told} == {"warn"}
    assert f"step {told[0]['step']}: alarm {alarm}: {told[0]['message']}" in seen.err.splitlines()
    assert [row["step"] for row in rows(folder)][-1] == steps
    page = (folder / "report.html").read_text("utf-8")
    assert alarm in page and "no alarm was raised" not in page
    assert adapter(folder)


def check_stopped(seen: Outcome, folder: Path, alarm: str) -> int:
    """Ended with exit code 1 and one message, after saving; returns the step."""
    assert seen.code == 1, seen.err
    assert seen.out == ""
    (told,) = [row for row in rows(folder, "alarm") if row["action"] == "stop"]
    assert told["alarm"] == alarm
    step = int(told["step"])
    last = seen.err.splitlines()[-1]
    assert last == f"error: step {step}: {told['message']}; saved in {folder}"
    assert rows(folder)[-1]["step"] == step
    assert list_checkpoints(folder)[-1].name == f"step-{step}"
    assert alarm in (folder / "report.html").read_text("utf-8")
    saved = load_file(list_checkpoints(folder)[-1] / "policy.safetensors")
    assert len(saved) == len(adapter(folder))
    return step


def warn_from_now_on(run: Path, alarm: str) -> None:
    """Alarms may be set anew in a run that goes on; otherwise the next event would stop it again."""
    content = (run / "config.yaml").read_text("utf-8")
    assert f"{alarm}: stop" in content
    (run / "config.yaml").write_text(content.replace(f"{alarm}: stop", f"{alarm}: warn"), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("alarm", SPOILT)
def test_alarm_of_the_steps(tmp_path, four_pairs, alarm):
    sections = SPOILT[alarm] | {
        "data": {"path": str(four_pairs), "pairs_per_group": 1, "cache": str(tmp_path / "cache")}
    }
    steps = sections["training"]["steps"]
    seen, folder = start(tmp_path, {"window": 4}, **sections)
    check_warned(seen, folder, alarm, steps)
    shutil.rmtree(tmp_path / "runs")
    seen, stopped = start(tmp_path, {"window": 4, alarm: "stop"}, **sections)
    step = check_stopped(seen, stopped, alarm)
    assert step < steps
    warn_from_now_on(stopped, alarm)
    seen = call("train", "--resume", stopped)  # the user has looked, and goes on
    assert seen.code == 0, seen.err
    assert [row["step"] for row in rows(stopped)] == list(range(1, steps + 1))


@pytest.mark.slow
def test_no_alarm_where_all_is_well(tmp_path):
    """The quickstart's own settings, thirty steps of them."""
    sections: dict[str, Any] = {
        "objective": {"name": "diffusion_dpo", "beta": 1200.0},
        "optimizer": {"learning_rate": 6e-4, "warmup_steps": 20},
        "training": {"steps": 30, "groups": 8},
    }
    seen, folder = start(tmp_path, {"window": 10}, **sections)
    assert seen.code == 0, seen.err
    assert rows(folder, "alarm") == []
    assert "no alarm was raised" in (folder / "report.html").read_text("utf-8")


# ---------------------------------------------------------------- numbers gone bad


@pytest.mark.parametrize("cause", ["learning rate", "weights"])
def test_number_gone_bad(tmp_path, cause):
    """It ends the run whatever the settings say; what was saved before is whole, and the message names step and records."""
    sections: dict[str, Any] = {"training": {"steps": 9, "groups": 1, "checkpoint_every": 1}}
    if cause == "learning rate":
        sections["optimizer"] = {"learning_rate": 1e18}
    else:
        model = tmp_path / "model"
        shutil.copytree(locate("zoo://shapes-sd"), model, copy_function=os.link)
        weights = model / "unet/diffusion_pytorch_model.safetensors"
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] = torch.nan
        weights.unlink()
        save_file(tensors, weights)
        sections["model"] = {"path": str(model)}
    off = {"winner_error_rising": "off", "saturation": "off", "reward_hacking": "off", "diversity_collapse": "off"}
    seen, folder = start(tmp_path, off, **sections)
    assert seen.code == 1, seen.err
    (told,) = rows(folder, "alarm")
    assert (told["alarm"], told["action"]) == ("not_finite", "stop")
    assert seen.err.splitlines()[-1] == f"error: {told['message']}"
    assert f"step {told['step']}: " in told["message"] and "records of this step: group-" in told["message"]
    assert "not_finite" in (folder / "report.html").read_text("utf-8")
    assert [path.name for path in list_checkpoints(folder)][-1:] == [f"step-{told['step'] - 1}"] * (told["step"] > 1)
    assert not (folder / "adapter").exists()


# ---------------------------------------------------------------- rewards that are gamed


@pytest.fixture(scope="module")
def ranked_by_jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of the zoo's own drawings, the one that makes the smallest file first."""
    from diffalign.backbones import load_backbone
    from diffalign.rewards import load_reward

    home = tmp_path_factory.mktemp("jpeg")
    backbone, jpeg = load_backbone("sd", "zoo://shapes-sd"), load_reward("jpeg")
    with safe_open(locate("zoo://shapes-sd/preferences"), framework="pt") as file:
        x0 = file.get_tensor("latents")[:GROUPS].float()
    with torch.no_grad():
        scores = [jpeg(backbone.decode(each.flatten(0, 1))) for each in x0.split(50)]
    _subset(home / "jpeg.safetensors", slice(0, GROUPS), torch.cat(scores).unflatten(0, (GROUPS, -1)))
    return home / "jpeg.safetensors"


@pytest.mark.slow
def test_file_size_is_gamed(tmp_path, ranked_by_jpeg):
    """Trained for small files alone, the model forgets its captions within some steps: the held-out checker says so."""
    sections: dict[str, Any] = {
        "model": {"lora": {"rank": 16, "alpha": 16, "targets": LAYERS}},
        "data": {"path": str(ranked_by_jpeg), "pairs_per_group": 1},
        "objective": {"name": "diffusion_dpo", "beta": 10.0},
        "optimizer": {"learning_rate": 3e-3},
        "training": {"steps": 25, "groups": 16},
        "samples": {"every": 5, "count": 64},
        "evaluation": {
            "prompts": "zoo://shapes-sd/held_out",
            "count": 64,
            "rewards": [{"name": "jpeg"}, {"name": "scene", "form": "graded"}],
            "trained_reward": "jpeg",
            "sampler": {"name": "ddim", "steps": 8},
        },
    }
    seen, folder = start(tmp_path, {"reward_hacking": "stop", "window": 5, "diversity_limit": 0.7}, **sections)
    assert check_stopped(seen, folder, "reward_hacking") in (5, 10, 15, 20)
    first, *_, last = (row["rewards"] for row in rows(folder, "samples"))
    assert last["jpeg"]["mean"] > first["jpeg"]["mean"]
    assert last["scene"]["mean"] < first["scene"]["mean"] - 0.08
    assert "the held-out reward scene fell by" in seen.err and "while the trained reward jpeg rose by" in seen.err
    warn_from_now_on(folder, "reward_hacking")
    seen = call("train", "--resume", folder)
    assert seen.code == 0, seen.err
    assert [row["step"] for row in rows(folder)] == list(range(1, 26))
    told = {row["alarm"]: row["action"] for row in rows(folder, "alarm") if row["action"] == "warn"}
    assert told["diversity_collapse"] == "warn"  # nearly empty pictures are alike, and small
    page = (folder / "report.html").read_text("utf-8")
    assert "reward_hacking" in page and "diversity_collapse" in page
