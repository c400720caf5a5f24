"""One process is a team too: what a failure in it becomes."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import ConfigError, SaveError
from diffalign.training.checkpoint import Checkpoint, Progress, save_checkpoint
from diffalign.training.team import Team


def test_alone_it_does_all():
    team = Team()
    assert team.is_main
    assert team.from_main(lambda: 3) == 3
    assert team.together(lambda: "a") == ["a"]
    done: list[int] = []
    team.main_alone(lambda: done.append(1))
    assert done == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_what_cannot_be_written_is_one_kind_of_error(error):
    def fail() -> None:
        raise error

    with pytest.raises(OSError, match=r"No space left on device|PytorchStreamWriter failed"):
        Team().together(fail)


def test_errors_of_the_main_process_are_everyones():
    def fail() -> None:
        raise ConfigError("folder: no")

    with pytest.raises(ConfigError, match="folder: no"):
        Team().from_main(fail)


def test_a_draft_that_failed_is_taken_away(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffalign.training.checkpoint.save_file", full)
    checkpoint = Checkpoint(Progress(1, 0.0), {"policy": {"a": torch.ones(2)}}, {})
    with pytest.raises(SaveError, match=r"cannot be written .*No space left on device"):
        save_checkpoint(tmp_path, checkpoint, keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []
