"""in9-challenge: is there a background before which the classifier no longer sees the object?

Each object of ImageNet-9 is laid over each background until one of these images is misread. The
answer does not depend on the order, but the time does: backgrounds that misled the network about
earlier objects of the same class come first.

Source:
    Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds in Object
    Recognition, ICLR 2021, `challenge_eval.py`. https://github.com/MadryLab/backgrounds_challenge
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.official import (
    IN9_CLASSES,
    OFFICIAL_SUITES,
    SIZE_PX,
    decide_in9,
    files_of,
    within,
)
from benchmarks.scores import accuracy
from benchmarks.suite import DataSource, Suite
from cgn.files import ImageFiles
from cgn.images import Factors, ImageSet, to_images
from cgn.masks import masks_from_files
from cgn.model import compose

FIRST_LOOK = 4  # composites of an object in the first batch; each next one is twice as large
LARGEST_LOOK = 64


@dataclass(frozen=True)
class Outcome:
    """What became of one object.

    Attributes:
        broken_by: Number of the background before which it was misread; -1 if there is none.
        prediction: The answer there, or the object's class.
        confidence: What speaks for it, in [0, 1]; of an object that nothing breaks, the lowest.
        tried: Composites that were looked at.
    """

    broken_by: int
    prediction: int
    confidence: float
    tried: int


@torch.inference_mode()
def attack(
    module: nn.Module,
    foregrounds: ImageSet,
    backgrounds: ImageSet,
    *,
    decide: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    earlier: Sequence[Outcome] = (),
) -> Iterator[Outcome]:
    """Look for a background that breaks each object.

    Args:
        module: From images (B, 3, H, W) in [0, 1] to logits; in evaluation mode, on the device.
        foregrounds: Images of objects, with masks.
        backgrounds: Images without any, of the same size; they are kept on the device as bytes.
        decide: From logits to how much speaks for each class, (B, K) in [0, 1].
        device: Where to run.
        earlier: Outcomes of the first objects, if they are known: the search goes on after them.

    Yields:
        The outcomes of the others, in their order. Which objects break does not depend on the
        order of the backgrounds, nor on how many are looked at together.

    Raises:
        ValueError: If the objects have no masks.
    """
    if foregrounds.masks is None:
        raise ValueError("the challenge needs masks of the objects")
    labels = foregrounds.factors.shape.tolist()
    pixels = backgrounds.pixels.to(device)
    broke = torch.zeros(max(labels) + 1, len(backgrounds), dtype=torch.int64)
    for label, outcome in zip(labels, earlier, strict=False):
        _remember(broke, label, outcome)
    for number in range(len(earlier), len(labels)):
        span = slice(number, number + 1)
        image = foregrounds.images(span).to(device)
        mask = to_images(foregrounds.masks[span].to(device))
        label = labels[number]
        # What broke this class counts most, what broke others decides between the rest.
        order = (broke[label] * (len(labels) + 1) + broke.sum(dim=0)).argsort(
            descending=True, stable=True
        )
        outcome = _search(module, image, mask, pixels, order, label, decide)
        _remember(broke, label, outcome)
        yield outcome


def _remember(broke: Tensor, label: int, outcome: Outcome) -> None:
    """Count what a background did to objects of a class."""
    if outcome.broken_by >= 0:
        broke[label, outcome.broken_by] += 1


def _search(
    module: nn.Module,
    image: Tensor,
    mask: Tensor,
    backgrounds: Tensor,
    order: Tensor,
    label: int,
    decide: Callable[[Tensor], Tensor],
) -> Outcome:
    """Lay one object over backgrounds in an order until it is misread."""
    tried, look, least = 0, FIRST_LOOK, 1.0
    while tried < len(order):
        chosen = order[tried : tried + look]
        scenes = to_images(backgrounds[chosen.to(backgrounds.device)])
        composites = compose(mask, image, scenes).contiguous(memory_format=torch.channels_last)
        confidence, found = decide(module(composites).double()).max(dim=1)
        tried += len(chosen)
        wrong = (found != label).nonzero()[:, 0]
        if len(wrong):
            first = int(wrong[0])
            prediction, sure = int(found[first]), float(confidence[first])
            return Outcome(int(chosen[first]), prediction, sure, tried)
        least = min(least, float(confidence.min()))
        look = min(2 * look, LARGEST_LOOK)
    return Outcome(-1, label, least, tried)


def outcomes_kept(
    path: Path, go_on: Callable[[Sequence[Outcome]], Iterator[Outcome]]
) -> Iterator[Outcome]:
    """Keep outcomes in a file as they come, and take up what is there.

    Args:
        path: One line an outcome; the file is made if it is missing. A line that an interruption
            cut short is dropped.
        go_on: From the outcomes that are known to the others.

    Yields:
        All outcomes, first those of the file.
    """
    known = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            known.append(Outcome(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for outcome in known:
            file.write(json.dumps(asdict(outcome)) + "\n")
        file.flush()
        yield from known
        for outcome in go_on(known):
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()
            yield outcome


def predictions_of(outcomes: Sequence[Outcome], foregrounds: ImageSet) -> pd.DataFrame:
    """Lay out outcomes as predictions, one row an object, as `benchmarks.predictions` has them.

    The background's label is the number of the one that broke the object, -1 without any.
    """
    return pd.DataFrame(
        {
            "variant": "challenge",
            "index": range(len(outcomes)),
            "id": foregrounds.ids.numpy(),
            "shape": foregrounds.factors.shape.numpy(),
            "texture": -1,
            "background": [outcome.broken_by for outcome in outcomes],
            "prediction": [outcome.prediction for outcome in outcomes],
            "confidence": [outcome.confidence for outcome in outcomes],
        }
    )


def challenge_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find objects, with their masks, and backgrounds in the layout of ImageNet-9.

    Returns:
        `foregrounds`, the images of `original` with the masks of `fg_mask`, and `backgrounds`,
        those of `only_bg_t`.

    Raises:
        ValueError: If something is missing, or a mask does not fit its image.
    """
    sets: Mapping[str, ImageSet] = OFFICIAL_SUITES["in9"].variants(source)
    original, folder = sets["original"], within(source, "bg_challenge")
    paths, labels = files_of(folder / "fg_mask" / "val", IN9_CLASSES, endings=(".npy",))
    assert isinstance(original, ImageFiles)
    if [path.stem for path in paths] != [path.stem for path in original.paths]:
        raise ValueError(f"{folder / 'fg_mask'} has other names than {folder / 'original'}")
    masks = masks_from_files(paths, SIZE_PX)
    foregrounds = ImageFiles(
        original.paths,
        Factors(labels, labels, torch.full_like(labels, -1)),
        original.ids,
        size_px=SIZE_PX,
        masks=masks.to(torch.uint8) * 255,
    )
    return {"foregrounds": foregrounds, "backgrounds": sets["only_bg_t"]}


CHALLENGE = Suite(
    name="in9-challenge",
    asks="Is there a background before which the classifier no longer sees the object?",
    protocol="in9-challenge@madry-v1",
    world=OFFICIAL_SUITES["in9"].world,
    variants=challenge_variants,
    scores=(accuracy("challenge", chance=1 / 9),),
    primary="challenge_accuracy",
    embedded=False,
    decide=decide_in9,
    n_images={"foregrounds": 4_050, "backgrounds": 4_050},
)
