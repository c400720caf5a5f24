"""An interrupted run and an uninterrupted one end alike, to the bit."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from diffalign.config import RunConfig
from diffalign.data import GroupData, ShippedLatents, TensorCache, Texts, save_latents
from diffalign.exceptions import CheckpointError, ConfigError, HealthStop, RunInterrupted
from diffalign.training import load_run, resume, train
from diffalign.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from diffalign.training.offline import OfflineTrainer, StepResult
from diffalign.training.signals import StopRequest
from tests.data.pictures import pairs_folder
from tests.training.tiny import adapter, assert_equal, assert_same_run, rows, tiny, trainer_state


class PowerCut(BaseException):
    pass


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Do something once, right after a step has been taken and before anything is written of it."""

    def arrange(step: int, act: Callable[[], None]) -> None:
        original = OfflineTrainer.train_step
        done = []

        def train_step(self: OfflineTrainer) -> StepResult:
            result = original(self)
            if self.step == step and not done:
                done.append(step)
                act()
            return result

        monkeypatch.setattr(OfflineTrainer, "train_step", train_step)

    return arrange


def cut() -> None:
    raise PowerCut


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def started_and_stopped(config: RunConfig, by: type[BaseException]) -> Path:
    """Train until it is stopped; the run folder."""
    before = set(Path(config.folder).glob("*")) if Path(config.folder).exists() else set()
    with pytest.raises(by):
        train(config, progress=False)
    (folder,) = set(Path(config.folder).glob("*")) - before
    return folder


def pictures(home: Path) -> dict[str, Any]:
    folder = pairs_folder(home / "resume pairs", 5)
    return {"path": str(folder), "resolution": 16, "flip": True, "empty_prompt_share": 0.3}


ALARMS = {"window": 3, "saturation_limit": 5.0}
SAMPLES = {
    "samples": {"every": 2, "count": 2},
    "evaluation": {
        "prompts": "zoo://shapes-sd/held_out",
        "sampler": {"name": "ddim", "steps": 2},
        "rewards": [{"name": "scene"}, {"name": "jpeg"}],
        "trained_reward": "scene",
    },
}


@pytest.mark.parametrize(
    ("sections", "stop_at"),
    [
        pytest.param({}, 1, id="plain"),
        pytest.param({"training": {"log_every": 3}, "health": ALARMS, **SAMPLES}, 2, id="samples-alarms"),
        pytest.param(
            {"training": {"ema_decay": 0.5, "accumulation": 2}, "optimizer": {"schedule": "cosine", "warmup_steps": 2}},
            2,
            id="ema-schedule",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"data": pictures, "model": {"lora": {"rank": 2, "dropout": 0.3}}, "time": {"sampling": "stratified"}},
            3,
            id="pictures-dropout",
            marks=pytest.mark.slow,
        ),
        pytest.param({"family": "sd3", "objective": {"name": "flow_dpo"}}, 2, id="sd3", marks=pytest.mark.slow),
    ],
)
def test_stopped_by_a_signal_and_resumed_equals_uninterrupted(home, after_step, sections, stop_at):
    sections = {name: value(home) if callable(value) else value for name, value in sections.items()}
    config = tiny(home, **sections)
    whole = train(config, progress=False).folder
    after_step(stop_at, send(signal.SIGTERM))
    folder = started_and_stopped(config, RunInterrupted)
    assert [path.name for path in list_checkpoints(folder)] == [f"step-{stop_at}"]
    assert not (folder / "adapter").exists()
    done = resume(folder, progress=False)
    assert (done.folder, done.steps) == (folder, 4)
    assert_same_run(folder, whole, 4)
    assert [row["step"] for row in rows(folder, "resume")] == [stop_at]


def test_alarms_ring_as_in_the_uninterrupted_run(home, caplog):
    """The case above has alarms at all, or it would prove nothing; and one that goes on is told and recorded once."""
    config = tiny(home, training={"steps": 5, "log_every": 3}, health=ALARMS)
    folder = train(config, progress=False).folder
    seen = rows(folder, "alarm")
    assert [(row["step"], row["alarm"], row["action"]) for row in seen] == [(3, "saturation", "warn")]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"step 3: alarm saturation: {seen[0]['message']}"
    ]


def test_power_cut_between_checkpoints(home, after_step):
    training = {"steps": 6, "checkpoint_every": 2}
    whole = train(tiny(home, training=training), progress=False).folder
    after_step(5, cut)
    folder = started_and_stopped(tiny(home, training=training), PowerCut)
    assert rows(folder)[-1]["step"] == 4
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 5, "loss": 1.0}\n{"event": "st')
    resume(folder, progress=False)
    assert_same_run(folder, whole, 6)


def test_power_cut_before_the_first_checkpoint_starts_again(home, after_step):
    config = tiny(home, **SAMPLES)
    whole = train(config, progress=False).folder
    after_step(3, cut)
    folder = started_and_stopped(config, PowerCut)
    assert not list_checkpoints(folder)
    resume(folder, progress=False)
    assert_same_run(folder, whole, 4)
    assert len(rows(folder, "samples")) == 3  # the one of step 0 once
    assert rows(folder, "resume") == []


@pytest.mark.slow
def test_damaged_newest_checkpoint_costs_steps_not_bits(home, after_step, caplog):
    training = {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 2}
    whole = train(tiny(home, training=training), progress=False).folder
    after_step(5, send(signal.SIGINT))
    folder = started_and_stopped(tiny(home, training=training), RunInterrupted)
    assert [path.name for path in list_checkpoints(folder)] == ["step-4", "step-5"]
    victim = folder / "checkpoints" / "step-5" / "policy.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x7f")
    with caplog.at_level(logging.WARNING):
        resume(folder, progress=False)
    assert "step-5: damaged, policy.safetensors does not match its hash" in caplog.text
    assert_same_run(folder, whole, 6)


def test_all_checkpoints_damaged(home):
    folder = train(tiny(home, training={"steps": 1}), progress=False).folder
    (folder / "checkpoints" / "step-1" / "trainer.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no usable checkpoint among 1; start the run again with diffalign train"):
        resume(folder, progress=False)


def test_finished_run_is_only_loaded(home, caplog):
    folder = train(tiny(home, training={"steps": 2}), progress=False).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    expected = adapter(folder)
    with caplog.at_level(logging.INFO):
        done = resume(folder, progress=False)
    assert f"{folder}: this run is finished (2 steps); nothing left to train" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert done.steps == 2
    assert_equal({f"unet.{key}": value for key, value in done.backbone.state("policy").items()}, expected)


def test_finished_but_for_its_adapter(home, caplog):
    """Killed between the last checkpoint and the adapter."""
    import shutil

    folder = train(tiny(home, training={"steps": 2}), progress=False).folder
    expected = adapter(folder)
    shutil.rmtree(folder / "adapter")
    with caplog.at_level(logging.INFO):
        resume(folder, progress=False)
    assert "nothing left to train" not in caplog.text
    assert_equal(adapter(folder), expected)


@pytest.mark.slow
def test_two_interruptions(home, after_step):
    config = tiny(home)
    whole = train(config, progress=False).folder
    after_step(1, send(signal.SIGTERM))
    folder = started_and_stopped(config, RunInterrupted)
    after_step(3, send(signal.SIGINT))
    with pytest.raises(RunInterrupted) as caught:
        resume(folder, progress=False)
    assert caught.value.signal == signal.SIGINT
    assert f"SIGINT: saved step 3; go on with diffalign train --resume {folder}" in str(caught.value)
    resume(folder, progress=False)
    assert_same_run(folder, whole, 4)


def test_handlers_are_put_back(home, after_step):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    after_step(1, send(signal.SIGTERM))
    started_and_stopped(tiny(home), RunInterrupted)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def edit(run: Path, path: str, value: Any) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text())
    *sections, name = path.split(".")
    here = content
    for section in sections:
        here = here[section]
    here[name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(content))


def forget(run: Path, *names: str) -> None:
    """Take settings out of what the newest checkpoint was trained with; without names, all."""
    folder = list_checkpoints(run)[-1]
    checkpoint = load_checkpoint(folder)
    settings = checkpoint.trainer.pop("settings")
    if names:
        assert settings.keys() >= set(names)
        checkpoint.trainer["settings"] = {name: value for name, value in settings.items() if name not in names}
    save_checkpoint(run, checkpoint, keep=9)


def test_changed_rank_is_refused(home, after_step):
    after_step(2, send(signal.SIGTERM))
    folder = started_and_stopped(tiny(home), RunInterrupted)
    edit(folder, "model.lora.rank", 3)
    with pytest.raises(ConfigError, match=r"step 2 was trained with.*\n  model.lora.rank: was 2, is 3$"):
        resume(folder, progress=False)
    forget(folder, "model.lora.rank")
    with pytest.raises(ConfigError, match=r"\n  model.lora.rank: was 8, is 3$"):  # the default
        resume(folder, progress=False)
    forget(folder)  # as an older version left it
    with pytest.raises(CheckpointError, match=r"the checkpoint of step 2 does not fit the run's config.yaml"):
        resume(folder, progress=False)


def test_a_setting_that_an_older_version_did_not_know(home, after_step):
    after_step(2, send(signal.SIGTERM))
    folder = started_and_stopped(tiny(home), RunInterrupted)
    forget(folder, "data.fit", "time.sampling", "training.measure")
    assert resume(folder, progress=False).steps == 4


def test_other_settings_are_refused_before_anything_is_encoded(tmp_path, after_step, caplog):
    """By the newest checkpoint that is whole."""
    data = {"path": str(pairs_folder(tmp_path / "pairs", 3)), "resolution": 16}
    after_step(3, send(signal.SIGTERM))
    config = tiny(tmp_path, data=data, training={"steps": 4, "groups": 1, "checkpoint_every": 2})
    folder = started_and_stopped(config, RunInterrupted)
    edit(folder, "data.resolution", 32)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"step 3 was trained with.*\n  data.resolution: was 16, is 32$"):
        resume(folder, progress=False)
    with (folder / "checkpoints/step-3/policy.safetensors").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ConfigError, match=r"step 2 was trained with.*\n  data.resolution: was 16, is 32$"):
        resume(folder, progress=False)
    assert not (tmp_path / "cache").exists()
    edit(folder, "data.resolution", 16)
    caplog.clear()
    assert resume(folder, progress=False).steps == 4
    assert caplog.text.count("trying the one before") == 1
    assert [row["step"] for row in rows(folder, "resume")] == [2]


@pytest.mark.slow
def test_changed_data_is_said(home, after_step, caplog):
    data = {"path": str(pairs_folder(home / "data that change", 3)), "resolution": 16}
    after_step(2, send(signal.SIGTERM))
    folder = started_and_stopped(tiny(home, data=data), RunInterrupted)
    pairs_folder(home / "data that change", 4)
    with caplog.at_level(logging.WARNING):
        resume(folder, progress=False)
    assert "the records have changed since the checkpoint" in caplog.text


def test_changed_picture_is_said(home, after_step, caplog):
    """The ids, prompts and file names are as before."""
    pairs = pairs_folder(home / "picture that changes", 3)
    after_step(1, send(signal.SIGTERM))
    config = tiny(home, data={"path": str(pairs), "resolution": 16}, training={"steps": 2, "groups": 1})
    folder = started_and_stopped(config, RunInterrupted)
    Image.new("RGB", (16, 16), "red").save(pairs / "1b.png")
    with caplog.at_level(logging.WARNING):
        resume(folder, progress=False)
    assert "the records have changed since the checkpoint" in caplog.text


@pytest.mark.parametrize("changed", ["latents", "rewards", "prompt"])
def test_changed_latents_are_said(tmp_path, changed):
    tensors = {"latents": torch.zeros(2, 2, 4, 8, 8), "rewards": torch.zeros(2, 2), "prompt": torch.tensor([0, 1])}

    def content_hash(name: str) -> str:
        path = tmp_path / f"{name}.safetensors"
        numbers = tensors["prompt"].tolist()
        save_latents(path, tensors["latents"], tensors["rewards"], ["a", "b"], numbers, {"autoencoder": "one"})
        latents = ShippedLatents(path, "one")
        return GroupData(latents.records, latents, Texts(TensorCache(tmp_path), "")).content_hash

    before = content_hash("before")
    assert content_hash("again") == before
    tensors[changed].view(-1)[-1] = 0 if changed == "prompt" else 0.5
    assert content_hash("after") != before


def test_folders_that_a_cut_left_aside_are_put_back(home):
    done = train(tiny(home, training={"steps": 1}), progress=False)
    expected = adapter(done.folder)
    (done.folder / "adapter").rename(done.folder / ".adapter.old")
    (done.folder / ".evaluation.old").mkdir()
    assert load_run(done.folder).steps == 1
    assert_equal(adapter(done.folder), expected)
    assert (done.folder / "evaluation").is_dir()
    assert not list(done.folder.glob(".*"))


@pytest.mark.parametrize("ask", [resume, load_run])
def test_not_a_run_folder(tmp_path, ask):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"is not a run folder: it has no config.yaml"):
            ask(folder)


def test_load_run_needs_an_adapter(home, after_step):
    after_step(2, send(signal.SIGTERM))
    folder = started_and_stopped(tiny(home), RunInterrupted)
    with pytest.raises(ConfigError, match="has no adapter yet: finish it with diffalign train --resume"):
        load_run(folder)


def test_network_leaves_mixed_precision_behind(home):
    """What is drawn right after training is what the run's folder draws."""
    done = train(tiny(home, training={"steps": 2, "mixed_precision": "bf16"}), progress=False)
    kinds = [type(loaded.backbone.network).forward for loaded in (done, load_run(done.folder))]
    assert done.backbone.network.forward.__func__ is kinds[0] is kinds[1]
    latents = [
        next(iter(loaded.generator(["a red circle", "a blue square"], [0, 1], view="policy")))
        for loaded in (done, load_run(done.folder))
    ]
    assert torch.equal(*latents)


def test_load_run_has_what_was_trained(home):
    done = train(tiny(home, training={"ema_decay": 0.5}), progress=False)
    loaded = load_run(done.folder)
    assert_equal(loaded.backbone.state("policy"), done.backbone.state("ema"))
    assert (loaded.view, loaded.steps) == ("policy", 4)


# ---------------------------------------------------------------- alarms that stop


def test_stop_alarm_ends_the_run_after_saving(home):
    health = {"window": 2, "saturation": "stop", "saturation_limit": 5.0}
    config = tiny(home, health=health)
    folder = started_and_stopped(config, HealthStop)
    assert [row["action"] for row in rows(folder, "alarm")] == ["stop"]
    assert [path.name for path in list_checkpoints(folder)] == ["step-2"]
    assert adapter(folder)
    assert rows(folder)[-1]["step"] == 2
    done = resume(folder, progress=False)  # the user has looked, and goes on
    assert done.steps == 4
    assert len(rows(folder, "alarm")) == 1
    assert trainer_state(folder, 4)["health"]["rung"] == {"saturation": None}


def test_without_a_checkpoint_it_says_where_it_starts(home, after_step, caplog):
    after_step(1, cut)
    folder = started_and_stopped(tiny(home, training={"steps": 2}), PowerCut)
    with caplog.at_level(logging.INFO):
        resume(folder, progress=False)
    assert "no checkpoint yet: starting from step 0" in caplog.text


def test_signal_in_the_last_step_saves_all_and_goes_no_further(home, after_step):
    after_step(2, send(signal.SIGINT))
    config = tiny(home, training={"steps": 2})
    with pytest.raises(RunInterrupted, match=r"SIGINT: all 2 steps are done and saved; .* diffalign eval ") as caught:
        train(config, progress=False)
    assert caught.value.signal == signal.SIGINT
    folder = Path(str(caught.value).rpartition("diffalign eval ")[2])
    assert [path.name for path in list_checkpoints(folder)] == ["step-2"]
    assert adapter(folder)
    assert load_run(folder).steps == 2


def test_a_second_ctrl_c_ends_at_once_and_says_so(caplog):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job that a script started in the background
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT and "finishing this step, then saving" in caplog.text
            signal.raise_signal(signal.SIGINT)
        assert "SIGINT again: ended without saving" in caplog.text
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
