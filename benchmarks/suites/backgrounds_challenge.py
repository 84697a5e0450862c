"""in9-challenge: is there a background before which the classifier no longer sees the object?

Each object of ImageNet-9 is laid over each background until one of these images is misread. The
answer does not depend on the order, but the time does: after a few backgrounds drawn at random,
which all are looked at and tell how the accuracy falls with their number, those that misled the
network about earlier objects of the same class come first.

Source:
    Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds in Object
    Recognition, ICLR 2021, `challenge_eval.py`. https://github.com/MadryLab/backgrounds_challenge
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import comb
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.core.context import RunContext
from benchmarks.core.evaluate import probabilities
from benchmarks.core.scores import Score, accuracy
from benchmarks.core.statistics import bootstrap
from benchmarks.core.suite import DataSource, Suite, TestSet
from benchmarks.data.class_folders import folder_of, list_classes
from benchmarks.suites.decisions import decide_in9
from benchmarks.suites.imagenet9 import IN9_CLASSES, IN9_OFFICIAL
from benchmarks.worlds.imagenet import SIZE_PX
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_images
from cgn.data.preprocessing import DECODED_BY
from cgn.device.precision import evaluating
from cgn.io.cache import LIBRARIES, architecture, cache_key, sources, versions, weights_sha256
from cgn.io.journal import journal
from cgn.io.schema import checked
from cgn.models.cgn import compose
from cgn.segmentation.files import masks_from_files

log = logging.getLogger(__name__)

AT_RANDOM = 16  # backgrounds that are looked at for every object, broken or not
FIRST_LOOK = 4  # composites of an object in the next batch; each one after is twice as large
LARGEST_LOOK = 64


@dataclass(frozen=True)
class Outcome:
    """What became of one object.

    Attributes:
        broken_by: Number of the background before which it was misread; -1 if there is none.
        prediction: The answer there, or the object's class.
        confidence: What speaks for it, in [0, 1]; of an object that nothing breaks, the lowest.
        tried: Composites that were looked at.
        misled: Before how many of the backgrounds drawn at random it was misread.
    """

    broken_by: int
    prediction: int
    confidence: float
    tried: int
    misled: int

    def __post_init__(self) -> None:
        counts = min(self.broken_by + 1, self.tried, self.misled)
        if counts < 0 or not 0 <= self.confidence <= 1.001:  # but for rounding
            raise ValueError(f"{self} cannot have come of a search")


@torch.inference_mode()
def attack(
    module: nn.Module,
    foregrounds: ImageSet,
    backgrounds: ImageSet,
    *,
    decision_rule: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    earlier: Sequence[Outcome] = (),
) -> Iterator[Outcome]:
    """Look for a background that breaks each object.

    Args:
        module: From images (B, 3, H, W) in [0, 1] to logits; in evaluation mode, on the device.
        foregrounds: Images of objects, with masks.
        backgrounds: Images without any, of the same size; they are kept on the device as bytes.
        decision_rule: From logits to how much speaks for each class, (B, K) in [0, 1].
        device: Where to run.
        precision: What the module runs in, as for `cgn.device.precision.evaluating`.
        earlier: Outcomes of the first objects, if they are known: the search goes on after them.

    Yields:
        The outcomes of the others, in their order. Which objects break does not depend on the
        order of the backgrounds, nor on how many are looked at together. Which backgrounds are
        drawn at random depends on an object's place and on nothing else.

    Raises:
        ValueError: If the objects have no masks.
    """
    if foregrounds.masks is None:
        raise ValueError("the challenge needs masks of the objects")
    labels = foregrounds.factors.shape.tolist()
    pixels = backgrounds.pixels.to(device)
    broke = torch.zeros(max(labels) + 1, len(backgrounds), dtype=torch.int64)
    for label, outcome in zip(labels, earlier, strict=False):
        _count_break(broke, label, outcome)
    for number in range(len(earlier), len(labels)):
        span = slice(number, number + 1)
        image = foregrounds.images(span).to(device)
        mask = to_images(foregrounds.masks[span].to(device))
        label = labels[number]
        # What broke this class counts most, what broke others decides between the rest.
        order = (broke[label] * (len(labels) + 1) + broke.sum(dim=0)).argsort(
            descending=True, stable=True
        )
        composites = _Composites(module, image, mask, pixels, decision_rule, label, precision)
        outcome = _search(composites, random_backgrounds(len(backgrounds), number), order)
        _count_break(broke, label, outcome)
        yield outcome


def random_backgrounds(n_backgrounds: int, number: int) -> Tensor:
    """Draw the backgrounds that are looked at for an object whatever comes of it.

    Args:
        n_backgrounds: How many there are.
        number: Place of the object.

    Returns:
        Their numbers, (`AT_RANDOM`,) int64, or all if there are fewer.
    """
    generator = torch.Generator().manual_seed(number)
    return torch.randperm(n_backgrounds, generator=generator)[:AT_RANDOM]


def _count_break(broke: Tensor, label: int, outcome: Outcome) -> None:
    """Count what a background did to objects of a class."""
    if outcome.broken_by >= 0:
        broke[label, outcome.broken_by] += 1


@dataclass(frozen=True)
class _Composites:
    """One object, which can be laid over backgrounds and looked at."""

    module: nn.Module
    image: Tensor
    mask: Tensor
    backgrounds: Tensor
    decision_rule: Callable[[Tensor], Tensor]
    label: int
    precision: torch.dtype

    def __call__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Answers before the chosen backgrounds, and what speaks for them, each (B,)."""
        scenes = to_images(self.backgrounds[chosen.to(self.backgrounds.device)])
        composites = compose(self.mask, self.image, scenes)
        with evaluating(composites.device, self.precision):
            logits = self.module(composites.contiguous(memory_format=torch.channels_last))
        if not logits.isfinite().all():
            raise ValueError(
                "the module gives logits that are infinite or NaN: did training diverge?"
            )
        confidence, found = self.decision_rule(logits.double()).max(dim=1)
        return found.cpu(), confidence.cpu()


def _search(composites: _Composites, at_random: Tensor, order: Tensor) -> Outcome:
    """Lay one object over backgrounds until it is misread: all random ones, then in an order."""
    rest = order[~torch.isin(order, at_random)]
    tried, misled, least, size = 0, None, 1.0, FIRST_LOOK
    chosen = at_random
    while len(chosen):
        found, confidence = composites(chosen)
        tried += len(chosen)
        wrong = (found != composites.label).nonzero()[:, 0]
        misled = len(wrong) if misled is None else misled
        if len(wrong):
            first = int(wrong[0])
            answer = int(found[first]), float(confidence[first])
            return Outcome(int(chosen[first]), *answer, tried, misled)
        least = min(least, float(confidence.min()))
        chosen, rest = rest[:size], rest[size:]
        size = min(2 * size, LARGEST_LOOK)
    return Outcome(-1, composites.label, least, tried, 0)


def accuracy_against(n_backgrounds: int, *, chance: float) -> Score:
    """Share of objects that are recognised before so many backgrounds drawn at random.

    Args:
        n_backgrounds: How many; not more than `AT_RANDOM`.
        chance: What it gives to answer always the same, in [0, 1].

    Returns:
        A score in [0, 1], the mean over all choices of so many of the `AT_RANDOM` that were
        looked at: 1 is not misled by any. Its interval resamples objects, its `n` counts them.

    Example:
        >>> seen = pd.DataFrame({"variant": "challenge", "id": [0, 1], "misled": [0, 4],
        ...                      "drawn": 16})
        >>> accuracy_against(1, chance=1 / 9).compute(seen).value  # certain, and 12 of 16
        0.875
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        if "misled" not in predictions:
            raise ValueError("these predictions have no random backgrounds; run the model again")
        all_drawn, misled = predictions["drawn"].astype(int), predictions["misled"].astype(int)
        chosen = all_drawn.clip(upper=n_backgrounds)
        kept = [comb(n - m, k) for n, m, k in zip(all_drawn, misled, chosen, strict=True)]
        ways = [comb(n, k) for n, k in zip(all_drawn, chosen, strict=True)]
        return pd.DataFrame({"hits": kept, "images": ways}, index=predictions["id"])

    return Score(
        variant="challenge",
        metric=f"accuracy_against_{n_backgrounds}",
        count=count,
        estimate=lambda clusters: bootstrap(clusters)._replace(n=len(clusters)),
        chance=chance,
    )


def outcomes_kept(
    path: Path, go_on: Callable[[Sequence[Outcome]], Iterator[Outcome]]
) -> Iterator[Outcome]:
    """Keep outcomes in a file as they come, and take up what is there.

    Args:
        path: One line an outcome; the file is made if it is missing. A line that an interruption
            cut short is dropped. Another process that writes it is waited for.
        go_on: From the outcomes that are known to the others.

    Yields:
        All outcomes, first those of the file.
    """
    known = []
    with journal(path) as kept:
        for entry in kept.entries:
            try:
                known.append(checked(Outcome, entry, path))
            except ValueError:
                break
        kept.keep_first(len(known))
        yield from known
        for outcome in go_on(known):
            kept.add(asdict(outcome))
            yield outcome


def evaluate_by_search(
    test: TestSet, module: nn.Module, name: str, context: RunContext
) -> tuple[pd.DataFrame, float]:
    """Search a bad background for every object; an interrupted search goes on where it was.

    Returns:
        Predictions; and composites per second, 0 if all outcomes were known.
    """
    foregrounds, backgrounds = test.variants["foregrounds"], test.variants["backgrounds"]
    path = context.cache / "challenge" / f"{_cache_key(test, module, context)}.jsonl"
    started, outcomes, known = time.perf_counter(), list[Outcome](), 0
    module.to(context.device).eval()

    def search(earlier: Sequence[Outcome]) -> Iterator[Outcome]:
        nonlocal known
        known = len(earlier)
        return attack(
            module,
            foregrounds,
            backgrounds,
            decision_rule=test.suite.decision_rule or probabilities,
            device=context.device,
            precision=context.dtype,
            earlier=earlier,
        )

    with context.progress.task(f"{name} on {test.suite.name}") as update:
        for outcome in outcomes_kept(path, search):
            outcomes.append(outcome)
            update(len(outcomes), len(foregrounds))
    seconds = time.perf_counter() - started
    tried = sum(outcome.tried for outcome in outcomes)
    tried_now = sum(outcome.tried for outcome in outcomes[known:])
    every = len(foregrounds) * len(backgrounds)
    context.progress.note(f"{name}: {tried:,} of {every:,} composites had to be looked at")
    return predictions_of(outcomes, foregrounds, len(backgrounds)), tried_now / seconds


def _cache_key(test: TestSet, module: nn.Module, context: RunContext) -> str:
    """Hash all that decides the outcomes of the challenge."""
    parts: dict[str, object] = {
        "weights": weights_sha256(module),
        "architecture": architecture(module),
        "data": test.data_sha256,
        "protocol": test.suite.protocol,
        "device": context.device.type,
        "precision": str(context.dtype),
        "decoders": DECODED_BY,
    }
    return cache_key(parts | versions(*LIBRARIES), sources(__name__))


def predictions_of(
    outcomes: Sequence[Outcome], foregrounds: ImageSet, n_backgrounds: int
) -> pd.DataFrame:
    """Lay out outcomes as predictions, one row an object, in the columns of stored predictions.

    The background's label is the number of the one that broke the object, -1 without any; `misled`
    is before how many of the `drawn` backgrounds it was misread.
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
            "misled": [outcome.misled for outcome in outcomes],
            "drawn": min(AT_RANDOM, n_backgrounds),
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
    sets = IN9_OFFICIAL.variants(source)
    original, folder = sets["original"], folder_of(source, "bg_challenge")
    paths, labels = list_classes(folder / "fg_mask" / "val", IN9_CLASSES, endings=(".npy",))
    if [path.stem for path in paths] != [path.stem for path in original.paths]:
        raise ValueError(f"{folder / 'fg_mask'} has other names than {folder / 'original'}")
    masks = masks_from_files(paths, SIZE_PX)
    if n_empty := int((~masks.flatten(1).any(dim=1)).sum()):
        log.warning("%s: %d of %d masks are empty", folder / "fg_mask", n_empty, len(masks))
    foregrounds = replace(
        original,
        factors=Factors(labels, labels, torch.full_like(labels, -1)),
        masks=masks.to(torch.uint8) * 255,
    )
    return {"foregrounds": foregrounds, "backgrounds": sets["only_bg_t"]}


CHALLENGE = Suite(
    name="in9-challenge",
    data_folder="in9",
    question="Is there a background before which the classifier no longer sees the object?",
    protocol="in9-challenge@madry-v1",
    clustering=IN9_OFFICIAL.clustering,
    world=IN9_OFFICIAL.world,
    variants=challenge_variants,
    scores=(
        accuracy("challenge", chance=1 / 9),
        *(accuracy_against(n, chance=1 / 9) for n in (1, 2, 4, 8, 16)),
    ),
    primary="challenge_accuracy",
    embedded=False,
    decision_rule=decide_in9,
    n_images={"foregrounds": 4_050, "backgrounds": 4_050},
    class_outputs=IN9_OFFICIAL.class_outputs,
    evaluation=evaluate_by_search,
)
