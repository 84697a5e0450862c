from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cgn.training import checkpoints
from cgn.training.checkpoints import Checkpoint

ORIGIN = {"seed": 0}


def layer(value: float = 0.0) -> nn.Linear:
    module = nn.Linear(2, 1)
    nn.init.constant_(module.weight, value)
    return module


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    saved = Checkpoint(None, {"layer": layer()}, ORIGIN)
    saved.save(1)
    saved.discard()
    assert saved.resume() == 0


def test_a_run_is_resumed_with_its_parts_and_its_random_state(tmp_path: Path) -> None:
    path, generator = tmp_path / "run", torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        Checkpoint(path, {"layer": layer(3.0)}, ORIGIN, generator).save(7)
        expected = torch.rand(2), torch.rand(2, generator=generator)
        other, second = layer(), torch.Generator()
        assert Checkpoint(path, {"layer": other}, ORIGIN, second).resume() == 7
        assert torch.equal(torch.rand(2), expected[0])
        assert torch.equal(torch.rand(2, generator=second), expected[1])
    assert other.weight.tolist() == [[3.0, 3.0]]


def test_the_file_of_another_origin_or_other_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Checkpoint(path, {"layer": layer()}, ORIGIN).save(1)
    with pytest.raises(ValueError, match="other settings, images or weights; delete it"):
        Checkpoint(path, {"layer": layer()}, {"seed": 1}).resume()
    with pytest.raises(ValueError, match="does not fit this training"):
        Checkpoint(path, {"layer": nn.Linear(3, 1)}, ORIGIN).resume()


def test_a_discarded_file_is_gone(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path / "run", {"layer": layer()}, ORIGIN)
    saved.save(1)
    saved.discard()
    assert not list(tmp_path.iterdir())


def test_what_a_thread_writes_is_the_state_at_the_time_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_on_host", lambda state: False)  # as on a GPU
    module = layer()
    saved = Checkpoint(tmp_path / "run", {"layer": module}, ORIGIN)
    saved.save(1)
    nn.init.ones_(module.weight)
    saved.wait()
    stored = torch.load(tmp_path / "run", weights_only=True)
    assert stored["parts"]["layer"]["weight"].tolist() == [[0.0, 0.0]]


def test_a_failure_to_write_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_on_host", lambda state: False)
    (tmp_path / "file").touch()
    saved = Checkpoint(tmp_path / "file" / "run", {"layer": layer()}, ORIGIN)
    saved.save(1)
    with pytest.raises(OSError, match="file"):
        saved.save(2)
