"""How fast image files are evaluated, beside the forward pass alone and timm's validate.py.

Measured, never asserted: `pytest tests/throughput/test_throughput_evaluation.py --benchmark-only`.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from measuring import FULL, measure, of_rounds
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.core.evaluate import PIXELS_AT_ONCE, evaluate
from cgn.data.decoding import decode
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import ImageSet, to_images
from cgn.models.efficientnet import efficientnet_lite
from classifiers import load_model
from classifiers.networks.input_transforms import Normalised


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Files about as large as ImageNet's, in one folder; few unless times are asked for."""
    n = 120 if FULL else 8
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (n, 3, 32, 40), generator=generator, dtype=torch.uint8)
    folder = tmp_path / "photographs" / "n01440764"
    folder.mkdir(parents=True)
    for number, pixels in enumerate(noise):
        small = Image.fromarray(pixels.movedim(0, -1).numpy())
        small.resize((500, 400)).save(folder / f"{number:03}.JPEG", quality=95)
    return folder


def as_validate_py(network: nn.Module, folder: Path, batch_size: int) -> Callable[[], float]:
    """Make what does the same as timm's validate.py with its defaults, from timm's own parts.

    The script itself is in no package: it lies beside timm in its repository.
    """
    data: Any = import_module("timm.data")
    utils: Any = import_module("timm.utils")
    config = data.resolve_model_data_config(network, use_test_size=True)
    names = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    loader = data.create_loader(
        data.create_dataset("", root=folder.parent, split="validation", input_img_mode="RGB"),
        batch_size=batch_size,
        use_prefetcher=True,
        num_workers=4,
        pin_memory=False,
        device=torch.device("cpu"),
        **{name: config[name] for name in names},
    )
    criterion = nn.CrossEntropyLoss()

    @torch.inference_mode()
    def validate() -> float:
        losses, top1, top5 = utils.AverageMeter(), utils.AverageMeter(), utils.AverageMeter()
        for images, target in loader:
            output = network(images)
            losses.update(criterion(output, target).item(), len(images))
            for meter, right in zip(
                (top1, top5), utils.accuracy(output.detach(), target, topk=(1, 5)), strict=True
            ):
                meter.update(right.item(), len(images))
        return float(top1.avg)

    return validate


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_evaluation_beside_the_forward_pass_and_timm(
    benchmark: BenchmarkFixture, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each round all three in turn, so that what else the machine does slows all alike.

    In each round another one comes first: what follows work on one core finds the machine faster.
    """
    batch_size = PIXELS_AT_ONCE["cpu"] // 224**2
    found, plain = load_model("efficientnet-lite0"), efficientnet_lite(0)
    paths = sorted(photographs.iterdir())
    labels = Factors.aligned(torch.zeros(len(paths), dtype=torch.int64))
    files = ImageSet(FileReader(paths, 224), labels, torch.arange(len(paths)))
    files = files.prepared(found.preprocessing)
    batches = [
        batch.contiguous(memory_format=torch.channels_last)
        for batch, _ in files.batches(batch_size)
    ]

    @torch.inference_mode()
    def forward() -> None:
        for batch in batches:
            found.module(batch)

    def evaluation() -> None:
        evaluate(found.module, {"test": files})

    runs = {
        "forward pass alone": forward,
        "evaluation of files": evaluation,
        "as timm's validate.py": as_validate_py(plain, photographs, batch_size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    order = deque(runs)

    def each_in_turn() -> None:
        for name in order:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
        order.rotate()

    rounds = 6 if FULL else 1
    measure(benchmark, each_in_turn, 3 * len(paths), "cpu", rounds=rounds)
    taken = {name: of_rounds(each, rounds) for name, each in seconds.items()}
    speeds = {name: len(paths) / each.min().item() for name, each in taken.items()}
    ours = taken["evaluation of files"]
    ratios = {name: (each / ours).median().item() for name, each in taken.items()}
    benchmark.extra_info |= {"images_per_second": speeds, "evaluation_times_as_fast_as": ratios}
    if FULL:
        with capsys.disabled():
            for name, speed in speeds.items():
                said = f"evaluation is {ratios[name]:.2f} times as fast, median of paired rounds"
                sys.stdout.write(f"\n{name:22} {speed:6.1f} images/s; {said}")
    assert all(len(each) >= 1 for each in seconds.values())


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_what_is_timed_beside_evaluation_sees_the_same_images(photographs: Path) -> None:
    class Seen(nn.Module):
        """Keeps what it is shown."""

        def __init__(self, config: object) -> None:
            super().__init__()
            self.pretrained_cfg, self.shown = config, torch.empty(0)

        def forward(self, images: Tensor) -> Tensor:
            self.shown = images
            return images.flatten(1)[:, :1_000]

    found = load_model("efficientnet-lite0")
    theirs = Seen(efficientnet_lite(0).pretrained_cfg)
    as_validate_py(theirs, photographs, 8)()
    paths = sorted(photographs.iterdir())[-8:]
    pixels = torch.stack([found.preprocessing.apply(decode(path.read_bytes())) for path in paths])
    assert isinstance(found.module, Normalised)
    front = found.module
    shown = front.deviation * theirs.shown + front.mean
    assert torch.allclose(to_images(pixels), shown, atol=1.01 / 255)
