"""Several processes share the images of a suite, and leave behind what one alone does."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import patch_commands
from torch import nn

from benchmarks import cli
from benchmarks.records.predictions import load
from benchmarks.records.runs import read_runs
from benchmarks.worlds.imagenet import classes_of
from cgn.data.preprocessing import IMAGENET
from cgn.device.distributed import all_gather, dist_info, init_distributed, local_batches
from classifiers.networks.pretrained import Pretrained

SECONDS = 120.0  # after which processes that wait for each other are given up


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port: int = place.getsockname()[1]
        return port


def started(number: int, n: int, port: int, work: Callable[[], int | None]) -> None:
    """Do what `torchrun` does for one of n processes."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    raise SystemExit(work() or 0)


def on_processes(n: int, work: Callable[[], int | None]) -> list[int | None]:
    """Run the same on n processes; their exit codes."""
    fork, port = multiprocessing.get_context("fork"), free_port()
    processes = [fork.Process(target=started, args=(i, n, port, work)) for i in range(n)]
    for each in processes:
        each.start()
    end = time.monotonic() + SECONDS
    for each in processes:
        each.join(max(0.0, end - time.monotonic()))
        each.kill()
        each.join()
    return [each.exitcode for each in processes]


def small_network() -> nn.Module:
    """A convolutional network with 1,000 outputs, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 7, stride=8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(32),
            nn.Linear(32, 1_000),
        )
        network(torch.rand(64, 3, 1, 1).expand(-1, -1, 224, 224))  # what it saw in training
        return network.eval()


@pytest.fixture
def stimuli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cue-conflict stimuli of noise, more than fit into one batch, and a network for them."""
    generator = torch.Generator().manual_seed(0)
    for name in classes_of("cue_conflict"):
        folder = tmp_path / "cue-conflict" / name
        folder.mkdir(parents=True)
        for texture in (
            name,
            *(other for other in classes_of("cue_conflict")[:7] if other != name),
        ):
            noise = torch.randint(256, (3, 3, 3), generator=generator, dtype=torch.uint8)
            image = Image.fromarray(noise.numpy()).resize((224, 224))
            image.save(folder / f"{name}1-{texture}2.png", compress_level=1)
    network = Pretrained(
        spec="timm:small.net",
        module=small_network(),
        weights_sha256="w",
        preprocessing=IMAGENET,
        n_classes=1_000,
    )
    patch_commands(monkeypatch, "load_model", lambda spec: network)
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cue-conflict"


def test_one_two_and_three_processes_leave_the_same_files(
    stimuli: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"--suite cue-conflict --model timm:small.net --device cpu --data {stimuli} --results "
    found = []
    for n in (1, 2, 3):
        results = tmp_path / f"results{n}"
        assert on_processes(n, lambda r=results: cli.main(f"{text}{r}".split())) == [0] * n  # type: ignore[misc]
        assert capfd.readouterr().out.count("conflict shape_bias") == 2  # leaderboard, protocols
        (path,) = results.rglob("*.parquet")
        runs = read_runs(results).drop(columns=["commit", "time", "images_per_second"])
        boards = [
            (results / f"{name}.csv").read_bytes()
            for name in ("cue-conflict-official", "sensitivity")
        ]
        found.append((path.read_bytes(), runs.to_csv(), boards))
    assert found[0] == found[1] == found[2]
    table, _ = load(path)
    assert len(table) == 16 * 8 - 7 > 2 * 40  # three batches of conflicts, one where cues agree
    assert table["prediction_top1"].nunique() > 1


def test_every_batch_is_one_processs_own() -> None:
    def work() -> int:
        with init_distributed():
            assert dist_info().size == 3
            mine = list(range(7))[local_batches()]
            assert len(mine) in (2, 3)
            assert all_gather(mine) == list(range(7))
            with dist_info().main_process_first():
                pass
            return 0 if dist_info().is_main_process == (os.environ["RANK"] == "0") else 1

    assert on_processes(3, work) == [0, 0, 0]


def test_what_is_trained_here_is_refused_on_several_processes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"--suite colored-mnist --model erm --device cpu --results {tmp_path}"
    assert on_processes(2, lambda: cli.main(text.split())) == [2, 2]
    assert "torchrun is for pretrained networks, and erm is trained here" in capfd.readouterr().err
