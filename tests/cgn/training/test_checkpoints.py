from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgn.training import checkpoints
from cgn.training.checkpoints import Checkpoints


def test_a_file_is_due_by_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    kept = Checkpoints(tmp_path / "run", minutes=2)
    assert not kept.due
    now[0] += 120
    assert kept.due
    kept.write({"step": 1})
    assert not kept.due
    assert torch.load(tmp_path / "run", weights_only=True) == {"step": 1}


def test_without_a_place_nothing_is_written(tmp_path: Path) -> None:
    Checkpoints(None, minutes=0).write({"step": 1})
    assert not list(tmp_path.iterdir())


def test_what_a_thread_writes_is_the_state_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_on_host", lambda state: False)  # as on a GPU
    kept, weight = Checkpoints(tmp_path / "run", minutes=0), torch.zeros(3)
    kept.write({"weights": [weight], "adam": {"step": (weight, 1)}})
    weight.fill_(1)
    kept.wait()
    stored = torch.load(tmp_path / "run", weights_only=True)
    assert stored["weights"][0].tolist() == stored["adam"]["step"][0].tolist() == [0, 0, 0]


def test_a_failure_to_write_is_told_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_on_host", lambda state: False)
    (tmp_path / "file").touch()
    kept = Checkpoints(tmp_path / "file" / "run", minutes=0)
    kept.write({"step": 1})
    with pytest.raises(OSError, match="file"):
        kept.write({"step": 2})
