"""Commands on a pretended GPU: they run, and mix no devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from imagenet_networks import tiny_cgn
from pretended_cuda import pretended_cuda

from benchmarks import cli
from cgn.models.imagenet.pretrained import authors_state


@pytest.mark.parametrize(
    "command",
    [
        "run --suite colored-mnist --model shipped:cgn-ensemble --results {0}/results",
        "counterfactuals --weights {0}/cgn.pth --out {0}/set --n 3 --shard-size 2 --batch-size 2",
    ],
    ids=["run", "counterfactuals"],
)
def test_a_command_runs_on_a_gpu(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    torch.save(authors_state(*tiny_cgn()), tmp_path / "cgn.pth")
    with pretended_cuda() as ledger:
        given = command.format(tmp_path).split()
        assert cli.main([*given, "--device", "cuda"]) == 0, capsys.readouterr().err
        assert ledger.counts().launches > 0
