"""What several test modules share: tiny image sets, models, and a table of predictions."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import benchmarks.cli
from benchmarks.core.environment import environment
from benchmarks.core.evaluate import data_sha256, evaluate, score_suite
from benchmarks.core.scores import accuracy, paired_difference
from benchmarks.core.suite import EMBEDDED, DataSource, Suite, TrainingDomain
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.predictions import Run, save
from benchmarks.records.runs import Row, append, exclusive
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SHARED = ROOT.parent / "shared" / "data"
N_CLASSES = 3
GOLDEN = SHARED / "golden"


def tiny_images(seed: int, n: int = 40) -> ImageSet:
    """Noise in which the brightness of the first row tells the shape."""
    generator = torch.Generator().manual_seed(seed)
    factors = Factors.independent(n, N_CLASSES, generator)
    pixels = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, :, 0] = (factors.shape * 100).to(torch.uint8).view(n, 1, 1)
    return ImageSet(pixels, factors, torch.arange(n))


def rectangles(n: int, size_px: int = 32, seed: int = 0) -> Tensor:
    """Random rectangles that leave the border free, (n, 1, size_px, size_px) bool."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 1, size_px, size_px, dtype=torch.bool)
    for mask in masks:
        top, left = torch.randint(3, size_px // 2, (2,), generator=generator).tolist()
        height, width = torch.randint(6, size_px // 2 - 3, (2,), generator=generator).tolist()
        mask[0, top : top + height, left : left + width] = True
    return masks


def tiny_suite(name: str = "tiny", *, protocol: str = "1") -> Suite:
    """Two variants of 40 noise images."""

    def variants(source: DataSource) -> dict[str, ImageSet]:
        if source.folder is not None and not (source.folder / "images.txt").is_file():
            raise ValueError(f"{source.folder} has no images.txt; point --data at the right folder")
        return {"easy": tiny_images(1), "hard": tiny_images(2)}

    world = TrainingDomain(
        name="tiny-world",
        classes=("a", "b", "c"),
        image_size_px=8,
        train=lambda source: tiny_images(3),
        unbiased=lambda source: tiny_images(4),
        official_files="its files" if "mnist" in name else "",
    )
    return Suite(
        name=name,
        question="Does it see the first row?",
        protocol=protocol,
        world=world,
        variants=variants,
        scores=(
            accuracy("easy", chance=1 / 3),
            accuracy("hard", chance=1 / 3),
            paired_difference("easy", "hard", metric="gap"),
        ),
        primary="hard_accuracy",
    )


TINY_SHA256 = data_sha256(tiny_suite().variants(EMBEDDED))


def run_model(
    results: Path,
    predictions: pd.DataFrame,
    *,
    model: str = "erm",
    seed: int = 0,
    weights: str = "w",
) -> None:
    """Leave behind what a run on the tiny suite does: predictions, rows and a leaderboard."""
    suite = tiny_suite()
    run = Run(
        suite=suite.name,
        protocol=suite.protocol,
        source="embedded",
        data_sha256=TINY_SHA256,
        model=model,
        weights_sha256=weights,
        seed=seed,
    )
    found = environment("cpu") | {"commit": "c0"}
    rows = [
        Row(
            **asdict(run),
            variant=score.variant,
            metric=score.metric,
            **estimate._asdict(),
            images_per_second=1.0,
            **found,  # type: ignore[arg-type]
        )
        for score, estimate in score_suite(suite, predictions).items()
    ]
    results.mkdir(parents=True, exist_ok=True)
    with exclusive(results):
        save(predictions, run.path(results), run)
        append(rows, results)
        write_leaderboards(results, [suite])


def golden(network: str) -> pd.DataFrame:
    """Published decisions of a network on the 1,280 cue-conflict images."""
    path = GOLDEN / f"cue-conflict_{network}.csv"
    if not path.is_file():
        pytest.skip(f"the published decisions are not here: {path}")
    table = pd.read_csv(path)
    names = table["imagename"].str.extract(r"_(\w+?)\d+-([a-z]+)\d+\.png$")
    shape = names[0].str.rsplit("_", n=1).str[-1]
    classes = sorted(set(shape) | set(names[1]) | set(table["object_response"]))
    labels = {name: label for label, name in enumerate(classes)}
    return pd.DataFrame(
        {
            "variant": "cue-conflict",
            "id": table["imagename"].str.extract(r"_([a-z]+\d+-[a-z]+\d+)\.png$")[0],
            "shape": shape.map(labels),
            "texture": names[1].map(labels),
            "prediction": table["object_response"].map(labels),
        }
    )


RUN = Run(
    suite="tiny",
    protocol="1",
    source="embedded",
    data_sha256="12",
    model="cgn-ensemble/shape",
    weights_sha256="34",
    seed=1,
)

ROW = Row(
    suite="tiny",
    protocol="1",
    source="embedded",
    data_sha256="d0",
    model="erm",
    weights_sha256="w0",
    seed=0,
    variant="hard",
    metric="accuracy",
    value=0.5,
    low=0.4,
    high=0.6,
    n=40,
    images_per_second=123.4,
    **environment("cpu"),
)


class FirstRow(nn.Module):
    """Sees the class that `tiny_images` writes into the first row."""

    def forward(self, images: Tensor) -> Tensor:
        label = (images[:, 0, 0, 0] * 255 / 100).round()
        return -((label[:, None] - torch.arange(3, device=images.device)) ** 2)


class Gives(nn.Module):
    """Gives the same whatever it sees."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> object:
        return self.answer


class Flip(nn.Module):
    """Swaps the first class with the last."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.flip(1)


def predictions(batch_size: int = 500) -> pd.DataFrame:
    variants = {"easy": tiny_images(1), "hard": tiny_images(2)}
    return evaluate(FirstRow(), variants, batch_size=batch_size)[0]


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of a file."""
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def patch_commands(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Put a value under a name wherever a command has one of that name."""
    names = [each.name for each in pkgutil.iter_modules(benchmarks.cli.__path__, "benchmarks.cli.")]
    having = [module for module in map(import_module, names) if hasattr(module, name)]
    assert having, f"the command line has no {name}"
    for module in having:
        monkeypatch.setattr(module, name, value)


def patch_suites(monkeypatch: pytest.MonkeyPatch, suites: dict[str, Suite]) -> None:
    """Put suites in place of all there are."""
    mnists = tuple(name for name in suites if name.endswith("mnist"))
    for name in ("SUITES", "ALL_SUITES"):
        patch_commands(monkeypatch, name, suites)
    patch_commands(monkeypatch, "GROUPS", {"all": tuple(suites), "mnists": mnists})
