"""What a run writes, what it says while it goes, and that a bad start leaves nothing behind."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import PartialState
from PIL import Image
from safetensors.torch import save_file

import diffalign
from diffalign.config import load_config
from diffalign.data import save_latents
from diffalign.exceptions import ConfigError, DataError, DivergenceError, MissingExtraError
from diffalign.objectives import OBJECTIVES, Objective, ObjectiveOutput
from diffalign.training import Run, run_log, train
from diffalign.training.devices import check_device
from diffalign.training.processes import start_accelerator
from diffalign.training.run_log import MetricsLog, Trackers, make_run_folder, read_rows
from tests.data.pictures import pairs_folder, write_rows
from tests.training.tiny import adapter, rows, tiny

HEALTH_METRICS = {
    "loss", "margin", "pair_accuracy", "winner_error", "loser_error", "reference_winner_error", "reference_loser_error",
    "reference_drift", "gradient_norm", "learning_rate", "seconds_per_step", "reward_mean", "reward_spread",
}  # fmt: skip


@pytest.fixture(scope="module")
def done(home: Path) -> Run:
    evaluation = {
        "prompts": "zoo://shapes-sd/held_out",
        "sampler": {"name": "ddim", "steps": 2},
        "rewards": [{"name": "scene"}, {"name": "jpeg"}],
        "trained_reward": "scene",
    }
    samples = {"every": 2, "count": 3}
    return diffalign.train(tiny(home, evaluation=evaluation, samples=samples, training={"steps": 3}), progress=False)


def test_python_call_returns_a_run(done):
    assert isinstance(done, Run)
    assert (done.steps, done.view) == (3, "policy")
    (pixels,) = done.generator(["a red circle"], [0])
    assert pixels.shape == (1, 3, 32, 32)


def test_folder_has_its_files(done, home):
    assert re.fullmatch(r"tiny-\d{8}-\d{6}(-\d+)?", done.folder.name)
    assert done.folder.parent == home / "runs"
    expected = {"config.yaml", "environment.json", "metrics.jsonl", "result.json", "samples", "checkpoints", "adapter"}
    assert {path.name for path in done.folder.iterdir()} == expected
    assert load_config(done.folder / "config.yaml") == done.config
    environment = json.loads((done.folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert {"diffalign", "diffusers", "peft"} <= environment["versions"].keys()


def test_metrics_have_the_figures_of_health(done):
    assert [row["step"] for row in rows(done.folder)] == [1, 2, 3]
    for row in rows(done.folder):
        assert row.keys() == HEALTH_METRICS | {"event", "step"}
        assert all(isinstance(row[name], float) and math.isfinite(row[name]) for name in HEALTH_METRICS)
        assert row["winner_error"] > 0 < row["loser_error"]


def test_samples_are_drawn_at_the_start_the_interval_and_the_end(done):
    drawn = rows(done.folder, "samples")
    assert [row["step"] for row in drawn] == [0, 2, 3]
    for row in drawn:
        assert row["rewards"].keys() == {"scene", "jpeg"}
        assert all(figure.keys() == {"mean", "spread", "count"} for figure in row["rewards"].values())
        assert row["rewards"]["jpeg"]["count"] == 3
        assert row["diversity"] > 0
        with Image.open(done.folder / "samples" / f"step-{row['step']}.png") as sheet:
            assert sheet.width > 200


def test_adapter_is_read_by_diffusers(done):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(diffalign.zoo.locate("zoo://shapes-sd")))
    pipe.load_lora_weights(done.folder / "adapter")
    expected = [value for key, value in adapter(done.folder).items() if "lora_B" in key]
    there = [value for key, value in pipe.unet.state_dict().items() if "lora_B" in key]
    assert len(there) == len(expected) > 0
    assert math.isclose(sum(float(x.norm()) for x in there), sum(float(x.norm()) for x in expected), rel_tol=1e-5)


def test_log_every(home):
    folder = train(tiny(home, training={"steps": 5, "log_every": 2}), progress=False).folder
    assert [row["step"] for row in rows(folder)] == [2, 4, 5]


def test_run_names_do_not_collide(home, monkeypatch):
    monkeypatch.setattr(run_log.time, "strftime", lambda _: "now")
    config = tiny(home, folder=str(home / "same second"))
    assert [make_run_folder(config).name for _ in range(3)] == ["tiny-now", "tiny-now-2", "tiny-now-3"]


def test_metrics_log_is_json_even_for_infinity(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("step", 1, gradient_norm=math.inf, loss=1.5)
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "event": "step",
        "step": 1,
        "gradient_norm": None,
        "loss": 1.5,
    }


def test_damaged_metrics_do_not_stop_a_resume(tmp_path):
    text = '{"event": "step", "step": 1}\n[1]\n{"no": "step"}\n{"event": "step", "step": 2}\n{"event": "st\xff'
    (tmp_path / "metrics.jsonl").write_bytes(text.encode("latin-1"))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]


# ---------------------------------------------------------------- a bad start leaves nothing


def absent_prompts(home: Path) -> dict:
    return {"evaluation": {"prompts": str(home / "absent.txt")}}


def bad_picture(home: Path) -> dict:
    folder = pairs_folder(home / "bad picture", 2)
    (folder / "1b.png").write_bytes(b"x")
    return {"data": {"path": str(folder), "resolution": 16}}


def foreign_latents(home: Path) -> dict:
    path = home / "foreign.safetensors"
    save_latents(path, torch.zeros(1, 2, 4, 8, 8), torch.zeros(1, 2), ["a"], [0], {"autoencoder": "of another model"})
    return {"data": {"path": str(path)}}


BAD_STARTS = [
    (lambda _: {"model": {"path": "zoo://nope"}}, ConfigError, "zoo://nope: the zoo has"),
    (lambda _: {"model": {"path": "zoo://shapes-sd3"}}, ConfigError, "zoo://shapes-sd3 holds a StableDiffusion3Pipeline"),
    (lambda home: {"model": {"path": str(home / "absent")}}, ConfigError, "model.path: cannot load"),
    (lambda _: {"model": {"lora": {"targets": ["nope"]}}}, ConfigError, "model.lora.targets: "),
    (lambda home: {"data": {"path": str(home / "absent.jsonl")}}, DataError, "absent.jsonl: cannot be read"),
    (foreign_latents, DataError, "another autoencoder"),
    (lambda _: {"data": {"flip": True}}, ConfigError, "data.flip: zoo://shapes-sd/preferences holds latents, not pictures"),
    (lambda _: {"data": {"resolution": 64}}, ConfigError, "data.resolution: zoo://shapes-sd/preferences holds latents"),
    (lambda home: {"data": {"path": str(write_rows(home / "empty.jsonl", []))}}, DataError, "no usable pairs"),
    (bad_picture, DataError, "record 'r1': not a readable picture"),
    (absent_prompts, DataError, "absent.txt: cannot be read"),
    (lambda _: {"device": "cuda:7"}, ConfigError, "device: 'cuda:7' cannot be used here"),
    (lambda _: {"device": "toaster"}, ConfigError, "device: 'toaster' cannot be used here: must be cuda, mps or cpu"),
    (lambda _: {"device": "meta"}, ConfigError, "device: 'meta' cannot be used here: must be cuda, mps or cpu"),
    (lambda _: {"device": "cpu:1"}, ConfigError, "device: 'cpu:1' was asked for, and this process runs on cpu"),
    (
        lambda _: {"evaluation": {"sampler": {"name": "ddim", "steps": 5000}}},
        ConfigError,
        "evaluation.sampler.steps: ",
    ),
    (lambda _: {"training": {"processes": 2}}, ConfigError, "training.processes: the config asks for 2, this run has 1"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "error", "says"), BAD_STARTS)
def test_bad_start_leaves_no_run_folder(home, tmp_path, sections, error, says):
    laid = sections(home)
    with pytest.raises(error) as caught:
        train(tiny(home, folder=str(tmp_path / "runs"), **laid), progress=False)
    assert says in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_tracker_that_is_not_installed(home, tmp_path, monkeypatch):
    monkeypatch.setattr(run_log.importlib.util, "find_spec", lambda name: None)
    config = tiny(home, folder=str(tmp_path / "runs"), log={"trackers": ["wandb"]})
    with pytest.raises(
        MissingExtraError, match=r"log.trackers: needs 'wandb'; install it with: pip install 'diffalign\[trackers\]'"
    ):
        train(config, progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("resume_step", "purged"), [(None, 0), (4, 5)])
def test_tensorboard_forgets_the_steps_after_the_checkpoint(home, tmp_path, monkeypatch, resume_step, purged):
    """A run that was killed has written steps that it takes again."""
    made = []
    writer = SimpleNamespace(SummaryWriter=lambda *args, **options: made.append((args, options)))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    monkeypatch.setattr(run_log.importlib.util, "find_spec", lambda name: True)
    Trackers(tiny(home, log={"trackers": ["tensorboard"]}), tmp_path, resume_step=resume_step)
    assert made == [((str(tmp_path / "tensorboard"),), {"purge_step": purged})]


def test_folder_that_is_a_file(home, tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(ConfigError, match=r"folder: .*file is a file; choose another with --set folder="):
            train(tiny(home, folder=str(folder)), progress=False)


def test_folder_that_cannot_be_written(home, tmp_path, monkeypatch):
    monkeypatch.setattr(run_log.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"folder: .* cannot be written; choose another with --set folder="):
        train(tiny(home, folder=str(tmp_path / "runs")), progress=False)


def test_folder_that_vanishes_between(home, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"folder: cannot make .*Not a directory"):
        make_run_folder(tiny(home, folder=str(tmp_path / "file" / "runs")))


# ---------------------------------------------------------------- numbers gone bad


def test_learning_rate_far_too_high_diverges(home):
    with pytest.raises(
        DivergenceError,
        match=r"^step 2: \w+ is (nan|inf|-inf); records of this step: group-\d+-\d, group-\d+-\d\. Lower",
    ):
        train(tiny(home, optimizer={"learning_rate": 1e30}), progress=False)


@pytest.mark.parametrize("bad", ["loss", "metric"])
def test_bad_objective_names_the_metric_and_keeps_the_last_checkpoint(home, monkeypatch, bad):
    calls = 0

    def objective(policy: torch.Tensor, *, reference: torch.Tensor, **settings: object) -> ObjectiveOutput:
        nonlocal calls
        calls += 1
        loss = (policy[:, 0] - policy[:, 1]) * (math.nan if bad == "loss" and calls == 3 else 1.0)
        return ObjectiveOutput(
            loss=loss, metrics={"made_up": torch.tensor(math.inf if bad == "metric" and calls == 3 else 0.0)}
        )

    row = OBJECTIVES["diffusion_dpo"]
    monkeypatch.setitem(OBJECTIVES, "diffusion_dpo", Objective(objective, row.params))
    config = tiny(home, training={"checkpoint_every": 1}, folder=str(home / f"diverging {bad}"))
    with pytest.raises(DivergenceError, match=f"step 3: {'loss is nan' if bad == 'loss' else 'made_up is inf'}"):
        train(config, progress=False)
    (folder,) = Path(config.folder).iterdir()
    from diffalign.training.checkpoint import load_latest

    assert load_latest(folder).progress.step == 2
    assert [row["step"] for row in rows(folder)] == [1, 2]
    (alarm,) = rows(folder, "alarm")
    assert (alarm["step"], alarm["alarm"], alarm["action"]) == (3, "not_finite", "stop")
    assert alarm["message"].startswith(f"step 3: {'loss is nan' if bad == 'loss' else 'made_up is inf'}")


def test_half_precision_preferences_of_another_file(home, tmp_path):
    """A preference set that is damaged on disk is refused before anything is made."""
    save_file({"latents": torch.zeros(1, 2, 4, 8, 8)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="not a readable preference set"):
        train(tiny(home, data={"path": str(tmp_path / "x.safetensors")}), progress=False)


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize(
    ("asked", "given", "fine"),
    [
        (None, "cuda:0", True),
        ("cuda", "cuda:1", True),
        ("cuda:1", "cuda:1", True),
        ("cuda:0", "cuda", True),
        ("cpu", "cpu", True),
        ("cuda:1", "cuda:0", False),
        ("cuda", "cpu", False),
        ("cpu", "cuda:0", False),
    ],
)
def test_device_is_the_one_that_was_asked_for(home, asked, given, fine):
    config = tiny(home, device=asked)
    if fine:
        check_device(config, torch.device(given))
        return
    with pytest.raises(ConfigError, match=rf"device: '{asked}' was asked for.* runs on {given}; CUDA_VISIBLE_DEVICES"):
        check_device(config, torch.device(given))


def test_an_earlier_run_on_another_device_does_not_decide(home, monkeypatch):
    start_accelerator(tiny(home))
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("mps"))
    assert start_accelerator(tiny(home, device="cpu")).device.type == "cpu"


def test_saved_settings_mean_the_same_files_from_any_folder(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "pairs.jsonl").write_text("")
    config = tiny(
        home,
        folder="runs",
        data={"path": "pairs.jsonl", "cache": "kept"},
        evaluation={"prompts": "prompts.txt"},
    )
    saved = load_config(make_run_folder(config).absolute() / "config.yaml")
    assert saved.folder == str(tmp_path / "runs")
    assert saved.data.path == str(tmp_path / "pairs.jsonl")
    assert saved.data.cache == str(tmp_path / "kept")
    assert saved.evaluation.prompts == str(tmp_path / "prompts.txt")
    assert saved.model.path == "zoo://shapes-sd"
    hub = {"path": "someone/some-model"}
    assert load_config(make_run_folder(tiny(home, model=hub)) / "config.yaml").model.path == "someone/some-model"
    (tmp_path / "someone" / "some-model").mkdir(parents=True)
    local = load_config(make_run_folder(tiny(home, model=hub)) / "config.yaml").model.path
    assert local == str(tmp_path / "someone" / "some-model")
    assert load_config(make_run_folder(tiny(home)) / "config.yaml").data.path == "zoo://shapes-sd/preferences"
