"""Reference errors kept on disk: the same gradients as from the live reference, and never those of other draws."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.training import reference_bank, resume, train
from diffalign.training.offline import OfflineTrainer
from diffalign.training.reference_bank import ReferenceBank
from tests.data.pictures import pairs_folder, picture_file
from tests.training.methods import trainer_of
from tests.training.tiny import assert_same_run, tiny


def as_the_bank_repeats(trainer: OfflineTrainer, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Let a live trainer see the draws that a bank of so many epochs would show it."""
    place = trainer._place

    def repeated(position: int) -> tuple[int, int]:
        epoch, number = place(position)
        return epoch % epochs, number

    monkeypatch.setattr(trainer, "_place", repeated)


@pytest.mark.parametrize(
    ("name", "family", "more"),
    [
        ("diffusion_dpo", "sd", {}),
        pytest.param("flow_dpo", "sd3", {}, marks=pytest.mark.slow),
        pytest.param("diffusion_kto", "sd", {"accumulation": 2}, marks=pytest.mark.slow),
        pytest.param("diffusion_dpo", "sd", {"two_pass": True}, marks=pytest.mark.slow),
    ],
)
def test_bank_gives_the_gradients_of_the_live_reference(home, tmp_path, monkeypatch, name, family, more):
    """Epochs repeat with period 2; mirrored pictures and empty prompts are drawn again as they were, too."""
    data = {"path": str(pairs_folder(tmp_path / "pairs", 5)), "flip": True, "empty_prompt_share": 0.3}
    training = {"steps": 9, "groups": 2} | more
    live = trainer_of(home, name, family, training=training, data=data)
    banked = trainer_of(home, name, family, training=training | {"reference_bank": 2}, data=data)
    as_the_bank_repeats(live, monkeypatch, 2)
    asked: list[str] = []
    view = banked.backbone.active
    monkeypatch.setattr(banked.backbone, "active", lambda which: asked.append(which) or view(which))
    for _ in range(9):  # of 5 records, 2 a step: three epochs and more
        one, two = live.train_step().metrics, banked.train_step().metrics
        for figure in ("loss", "gradient_norm", "reference_winner_error", "reference_loser_error"):
            if figure in one:
                assert two[figure] == pytest.approx(one[figure], rel=1e-3, abs=1e-6), figure
    assert set(asked) == {"policy"}  # and no reference


def test_bank_is_read_again_and_made_anew_for_other_draws(home, tmp_path, caplog, monkeypatch):
    """Whatever the errors depend on is in the bank's name."""
    base: dict[str, Any] = {
        "data": {"path": str(pairs_folder(tmp_path / "pairs", 3)), "cache": str(tmp_path / "cache")},
        "training": {"steps": 3, "groups": 2, "reference_bank": 1},
    }

    def filled(**sections: Any) -> bool:
        caplog.clear()
        merged = base | {name: base.get(name, {}) | section for name, section in sections.items() if name != "seed"}
        merged |= {"seed": sections["seed"]} if "seed" in sections else {}
        with caplog.at_level("INFO"):
            trainer_of(home, "diffusion_dpo", "sd", **merged)
        return "reference bank: epoch" in caplog.text

    assert filled()
    assert not filled()
    assert not filled(optimizer={"learning_rate": 1e-5})
    other = pairs_folder(tmp_path / "other pairs", 3)
    (other / "0a.png").write_bytes(picture_file(55))
    for change in (
        {"seed": 1},
        {"time": {"sampling": "shifted", "shift": 3.0}},
        {"training": {"measure": "v"}},
        {"training": {"share_noise": False}},
        {"training": {"share_time": False}},
        {"training": {"mixed_precision": "bf16"}},
        {"data": {"flip": True}},
        {"data": {"empty_prompt_share": 0.5}},
        {"data": {"path": str(other)}},
        {"data": {"resolution": 16}},
    ):
        assert filled(**change), change
        assert not filled(**change), change
    for file in (tmp_path / "cache").glob("reference-*/0.safetensors"):
        file.write_bytes(file.read_bytes()[:20])
    assert filled() and "cannot be read" in caplog.text
    monkeypatch.setattr(reference_bank, "FORMAT", -1)
    assert filled()
    for part in ("network", "text"):
        of = OfflineTrainer._filled_bank

        def with_another(self: OfflineTrainer, part: str = part, of: Any = of) -> ReferenceBank:
            seen = self.backbone.fingerprint
            self.backbone.fingerprint = lambda name: "another" if name == part else seen(name)  # type: ignore[method-assign]
            return of(self)

        with monkeypatch.context() as patch:
            patch.setattr(OfflineTrainer, "_filled_bank", with_another)
            assert filled(), part


def test_only_what_the_run_sees_is_worked_out_and_a_longer_one_adds_to_it(home, tmp_path, caplog):
    data = {"path": str(pairs_folder(tmp_path / "pairs", 5)), "cache": str(tmp_path / "cache")}

    def errors_after(steps: int) -> list[torch.Tensor]:
        training = {"steps": steps, "groups": 2, "reference_bank": 3}
        trainer = trainer_of(home, "diffusion_dpo", "sd", data=data, training=training)
        for _ in range(steps):
            trainer.train_step()
        (folder,) = (tmp_path / "cache").glob("reference-*")
        return [load_file(file)["errors"] for file in sorted(folder.glob("?.safetensors"))]

    first = errors_after(3)  # 6 of 15
    assert [int(errors.isfinite().all(1).sum()) for errors in first] == [5, 1]
    assert "saves no time in this run" in caplog.text
    caplog.clear()
    second = errors_after(8)
    assert [int(errors.isfinite().all(1).sum()) for errors in second] == [5, 5, 5]
    assert "saves no time" not in caplog.text
    torch.testing.assert_close(second[0], first[0], rtol=0, atol=0)


def test_a_resumed_run_makes_a_lost_bank_again(home, tmp_path):
    data = {"path": str(pairs_folder(tmp_path / "pairs", 3)), "cache": str(tmp_path / "cache")}
    training = {"steps": 4, "groups": 2, "reference_bank": 1, "checkpoint_every": 2}
    config = tiny(home, data=data, training=training)
    whole = train(config, progress=False).folder
    run = tmp_path / "cut"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-4")
    shutil.rmtree(run / "adapter")
    (folder,) = (tmp_path / "cache").glob("reference-*")
    shutil.rmtree(folder)
    resume(run, progress=False)
    assert_same_run(run, whole, 4)
    assert folder.exists()
