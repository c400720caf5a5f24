"""Reference errors kept on disk: the same gradients as from the live reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.data.pictures import pairs_folder
from tests.training.methods import trainer_of


@pytest.mark.parametrize(("name", "family"), [("diffusion_dpo", "sd"), ("flow_dpo", "sd3")])
def test_bank_gives_the_gradients_of_the_live_reference(home, tmp_path, monkeypatch, name, family):
    """Epochs repeat with period 2; mirrored pictures and empty prompts are drawn again as they were, too."""
    data = {"path": str(pairs_folder(tmp_path / "pairs", 5)), "flip": True, "empty_prompt_share": 0.3}
    training = {"steps": 9, "groups": 2}
    live = trainer_of(home, name, family, training=training, data=data)
    banked = trainer_of(home, name, family, training=training | {"reference_bank": 2}, data=data)
    place = live._place

    def repeated(position: int) -> tuple[int, int]:
        epoch, number = place(position)
        return epoch % 2, number

    monkeypatch.setattr(live, "_place", repeated)
    calls: list[bool] = []
    banked.backbone.network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for _ in range(9):  # of 5 records, 2 a step: three epochs and more
        one, two = live.train_step().metrics, banked.train_step().metrics
        for figure in ("loss", "gradient_norm", "reference_winner_error", "reference_loser_error"):
            assert two[figure] == pytest.approx(one[figure], rel=1e-3, abs=1e-6), figure
    assert calls == [True] * 9  # the policy, and no reference


def test_bank_is_read_again_and_made_anew_for_other_draws(home, tmp_path, caplog):
    data = {"path": str(pairs_folder(tmp_path / "pairs", 3)), "cache": str(tmp_path / "cache")}
    training = {"steps": 3, "groups": 2, "reference_bank": 2}

    def filled(**sections: Any) -> bool:
        caplog.clear()
        with caplog.at_level("INFO"):
            trainer_of(home, "diffusion_dpo", "sd", training=training, data=data, **sections)
        return "reference bank: epoch" in caplog.text

    assert filled()
    assert not filled()
    assert not filled(optimizer={"learning_rate": 1e-5})
    assert filled(seed=1)
    assert filled(time={"sampling": "shifted", "shift": 3.0})
    assert not filled(seed=1)
    for file in (tmp_path / "cache").glob("reference-*/1.safetensors"):
        file.write_bytes(file.read_bytes()[:20])
    assert filled() and "cannot be read" in caplog.text
