"""The ImageNet suites on their official files, for networks with ImageNet's 1,000 outputs.

One row of `imagenet.csv` is one of these outputs: its wnid, and the class that it counts for in
each suite. How files are decoded is not here: see `cgn.data.image_files`.

Source:
    ImageNet-9: Xiao et al., ICLR 2021, `in_to_in9.json` of
    https://github.com/MadryLab/backgrounds_challenge
    Cue-conflict: Geirhos et al., ICLR 2019, `human_categories.py` of
    https://github.com/bethgelab/model-vs-human
    ImageNet-A: Hendrycks et al., CVPR 2021, https://github.com/hendrycks/natural-adv-examples
    ImageNet-Sketch: Wang et al., NeurIPS 2019, https://github.com/HaohanWang/ImageNet-Sketch
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.core.scores import (
    accuracy,
    accuracy_of_classes,
    neither_rate,
    shape_bias,
    top_k_accuracy,
)
from benchmarks.core.suite import Column, DataSource, InputOverride, Protocol, Suite, TrainingDomain
from benchmarks.suites.cue_conflict import CUE_CONFLICT
from benchmarks.suites.imagenet9 import IN9
from benchmarks.suites.imagenet_shifts import IMAGENET_A, IMAGENET_SKETCH
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import ImageSet
from cgn.data.listing import class_folders, hidden, list_images, some, warn_of_unread
from cgn.data.preprocessing import AS_IT_IS, IMAGENET, Preprocessing

SIZE_PX = 224
N_OUTPUTS = 1_000  # of a network that knows ImageNet's classes
NONE = ""  # in `imagenet.csv`: counts for no class


@cache
def outputs() -> pd.DataFrame:
    """Read what each of the 1,000 outputs counts for.

    Returns:
        Columns wnid, in9, cue_conflict (names of classes, or empty) and imagenet_a (bool), indexed
        by the output.
    """
    path = Path(__file__).with_name("imagenet.csv")
    types = {"imagenet_a": bool}
    return pd.read_csv(path, index_col="index", keep_default_na=False, dtype=types)


def classes_of(column: str) -> list[str]:
    """Names of the classes of a suite, sorted, which is the order of their labels."""
    return sorted(set(outputs()[column]) - {NONE})


def places_of(suite: Suite) -> dict[str, int]:
    """Find the output that a network means which knows the classes of a suite by their names.

    Returns:
        The index by wnid and, where the most probable output decides for a class of the suite, one
        output of each such class by its name.

    Example:
        >>> places = places_of(OFFICIAL_SUITES["in9"])
        >>> places["n01440764"], places["08_fish"], len(places)
        (0, 0, 1009)
        >>> len(places_of(OFFICIAL_SUITES["cue-conflict"]))
        1000
    """
    places = {wnid: index for index, wnid in enumerate(outputs()["wnid"])}
    if suite.decision_rule is decide_in9:
        in9 = list(outputs()["in9"])
        places |= {name: in9.index(name) for name in classes_of("in9")}
    return places


def most_probable_of_groups(probabilities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Give each class the probability of its most probable output.

    Args:
        probabilities: Of the outputs, (B, K).
        labels: Class of each output, (K,) int64 in [0, n_classes].
        n_classes: How many classes there are; the label `n_classes` stands for none of them.

    Returns:
        (B, n_classes + 1): the largest is that of the class of the most probable output.

    Example:
        >>> probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> most_probable_of_groups(probabilities, torch.tensor([0, 1, 1, 2]), 2)
        tensor([[0.1000, 0.3000, 0.4000]])
    """
    empty = probabilities.new_zeros(len(probabilities), n_classes + 1)
    index = labels.to(probabilities.device).expand_as(probabilities)
    return empty.scatter_reduce(1, index, probabilities, "amax")


def mean_of_groups(probabilities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Give each class the mean probability of its outputs.

    Args:
        probabilities: As for `most_probable_of_groups`, and so are the other arguments.
        labels: Class of each output.
        n_classes: How many classes there are.

    Returns:
        (B, n_classes): of all others nothing is said.

    Example:
        >>> probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> mean_of_groups(probabilities, torch.tensor([0, 1, 1, 2]), 2)
        tensor([[0.1000, 0.2500]])
    """
    members = torch.nn.functional.one_hot(labels, n_classes + 1)[:, :n_classes]
    weights = (members / members.sum(dim=0)).to(probabilities)
    return probabilities @ weights


def sum_of_groups(probabilities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Give each class the probability of all of its outputs together.

    Args:
        probabilities: As for `most_probable_of_groups`, and so are the other arguments.
        labels: Class of each output.
        n_classes: How many classes there are.

    Returns:
        (B, n_classes): of all others nothing is said.

    Example:
        >>> probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> sum_of_groups(probabilities, torch.tensor([0, 1, 1, 2]), 2)
        tensor([[0.1000, 0.5000]])
    """
    members = torch.nn.functional.one_hot(labels, n_classes + 1)[:, :n_classes]
    return probabilities @ members.to(probabilities)


def rank(logits: Tensor, factors: Factors) -> Tensor:
    """Tell for how many outputs more speaks than for the right one.

    Args:
        logits: (B, C).
        factors: Labels; that of the shape is the right output.

    Returns:
        (B,) int64, from 0.

    Example:
        >>> labels = Factors.aligned(torch.tensor([0, 1]))
        >>> rank(torch.tensor([[3.0, 1, 2], [3, 1, 2]]), labels)
        tensor([0, 2])
    """
    right = logits.gather(1, factors.shape.to(logits.device)[:, None])
    return (logits > right).sum(dim=1)


def _labels(column: str) -> Tensor:
    """Class of each output, (1000,) int64; the number of classes for none."""
    classes = classes_of(column)
    return torch.tensor(
        [len(classes) if name == NONE else classes.index(name) for name in outputs()[column]]
    )


def decide_in9(logits: Tensor) -> Tensor:
    """Let the most probable of 1,000 outputs decide; 630 of them count for no class.

    Args:
        logits: (B, 1000).

    Returns:
        (B, 10), in [0, 1]: of the nine classes, and of none.
    """
    return most_probable_of_groups(logits.softmax(dim=1), _labels("in9"), len(classes_of("in9")))


def decide_cue_conflict(logits: Tensor) -> Tensor:
    """Let the class with the highest mean probability of its outputs decide.

    Args:
        logits: (B, 1000).

    Returns:
        (B, 16), in [0, 1]. They don't sum to 1.
    """
    classes = classes_of("cue_conflict")
    return mean_of_groups(logits.softmax(dim=1), _labels("cue_conflict"), len(classes))


def decide_imagenet_a(logits: Tensor) -> Tensor:
    """Let the 200 outputs that the suite has images of decide among themselves.

    Args:
        logits: (B, 1000).

    Returns:
        Probabilities, (B, 200).
    """
    return logits[:, _in_imagenet_a().to(logits.device)].softmax(dim=1)


def _most_probable(column: str) -> Column:
    """Decision of the most probable of 1,000 outputs, or none: the number of classes."""
    labels = _labels(column)
    return lambda logits, factors: labels.to(logits.device)[logits.argmax(dim=1)]


def _most_probable_mapped(column: str) -> Column:
    """Decision of the most probable of those outputs that count for a class."""
    labels = _labels(column)
    mapped = labels < len(classes_of(column))

    def decision_rule(logits: Tensor, factors: Factors) -> Tensor:
        there = logits.masked_fill(~mapped.to(logits.device), -torch.inf)
        return labels.to(logits.device)[there.argmax(dim=1)]

    return decision_rule


def _most_probable_sum(column: str) -> Column:
    """Decision of the class whose outputs have the highest probability together."""
    labels, n_classes = _labels(column), len(classes_of(column))
    return lambda logits, factors: sum_of_groups(
        logits.softmax(dim=1), labels.to(logits.device), n_classes
    ).argmax(dim=1)


def _in_imagenet_a() -> Tensor:
    """Whether ImageNet-A has images of each output, (1000,) bool."""
    return torch.tensor(outputs()["imagenet_a"].tolist())


def choose_of_200(logits: Tensor, factors: Factors) -> Tensor:
    """Let the outputs that ImageNet-A has images of decide, about images of all classes.

    Args:
        logits: (B, 1000).
        factors: Labels, which do not matter.

    Returns:
        (B,) int64, the output.
    """
    there = _in_imagenet_a().to(logits.device)
    return logits.masked_fill(~there, -torch.inf).argmax(dim=1)


def choose_of_1000(logits: Tensor, factors: Factors) -> Tensor:
    """Let all outputs decide about images of ImageNet-A.

    Args:
        logits: (B, 1000).
        factors: Labels, which do not matter.

    Returns:
        (B,) int64: which of the 200 classes, or 200 if it is none of them.
    """
    there = _in_imagenet_a()
    places = torch.where(there, there.cumsum(0) - 1, int(there.sum()))
    return places.to(logits.device)[logits.argmax(dim=1)]


def decide_imagenet(logits: Tensor) -> Tensor:
    """Let the most probable output decide.

    Args:
        logits: (B, 1000).

    Returns:
        Probabilities, (B, 1000).
    """
    return logits.softmax(dim=1)


def files_of(
    folder: Path, classes: Sequence[str], endings: tuple[str, ...] | None = None
) -> tuple[list[Path], Tensor]:
    """List the images of a folder of class folders; what else is in these is said in the log.

    Args:
        folder: It holds one folder a class.
        classes: Their names, in the order of the labels.
        endings: How the names of the files end, in lower case; None for all images.

    Returns:
        The files, class by class and sorted within; and their labels, (N,) int64.

    Raises:
        ValueError: If a class has no folder or no image, there is a folder of no class, or two
            images differ in their ending alone.
    """
    if problem := misfit(folder, classes):
        raise ValueError(problem)
    paths, labels, others = [], [], []
    for label, name in enumerate(classes):
        found = list_images(folder / name, endings=endings)
        if not found.images:
            raise ValueError(
                f"{folder / name} has no image, it holds {some(p.name for p in found.others)}; "
                "unpack the archive again"
            )
        paths += found.images
        labels += [label] * len(found.images)
        others += found.others
    warn_of_unread(folder, others)
    return paths, torch.tensor(labels)


FLAT = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG", re.IGNORECASE)
LOOKED_INTO = 20  # folders, for one that is meant
AGAIN = "unpack the archive again, or point --data elsewhere"


def misfit(folder: Path, classes: Sequence[str]) -> str:
    """Say what is wrong with a folder of class folders: what is there, what is not, what to do.

    Args:
        folder: It should hold one folder a class.
        classes: Their names.

    Returns:
        A sentence; empty if all is well.
    """
    if not folder.is_dir():
        near = next(place for place in folder.parents if place.is_dir())
        return (
            f"there is no folder {folder}; {near} holds {some(names_in(near))}; point --data at "
            "the unpacked archive"
        )
    there = {path.name for path in class_folders(folder)}
    lacking, odd = [name for name in classes if name not in there], sorted(there - {*classes})
    if not lacking and not odd:
        return ""
    if len(lacking) < len(classes):
        states = []
        if lacking:
            states.append(f"has no class folder {lacking[0]!r} ({len(lacking)} such)")
        if odd:
            states.append(f"has a folder of no class: {odd[0]!r} ({len(odd)} such)")
        return f"{folder} {' and '.join(states)}; {'move it away, or ' if odd else ''}{AGAIN}"
    if any(FLAT.fullmatch(name) for name in names_in(folder)):
        return (
            f"{folder} holds ImageNet's validation images side by side, not in one folder a class; "
            "name it DATA/imagenet, and `bench.py data imagenet --folder DATA` sorts them"
        )
    for name in odd[:LOOKED_INTO]:
        if {*classes} <= {path.name for path in class_folders(folder / name)}:
            return f"{folder} holds the class folders in {name!r}; point --data there"
    return (
        f"{folder} has no class folder {classes[0]!r}, nor any of the other {len(classes) - 1}; it "
        f"holds {some(names_in(folder))}; {AGAIN}"
    )


def names_in(folder: Path) -> list[str]:
    """Names of what is in a folder and not hidden, sorted."""
    return sorted(path.name for path in folder.iterdir() if not hidden(path))


def within(source: DataSource, name: str) -> Path:
    """The user's folder, or the one of that name in it: both are common."""
    if source.folder is None:
        raise ValueError("official ImageNet suites need a folder; name one with --data")
    inner = source.folder / name
    return inner if inner.is_dir() else source.folder


def _image_files(
    paths: Sequence[Path], factors: Factors, ids: Tensor, preprocessing: Preprocessing
) -> ImageSet:
    """Images of the size that all these suites share."""
    return ImageSet(FileReader(paths, SIZE_PX, preprocessing), factors, ids)


IN9_CLASSES = tuple(classes_of("in9"))
IN9_VARIANTS = tuple(dict.fromkeys(v for s in IN9.scores for v in s.variants))
# The object comes first in a name, in the mixed variants followed by what is behind it.
FOREGROUND = re.compile(r"(?:fg_)?(n\d+(?:_\d+)?)")
BACKGROUND = re.compile(r"_bg_(\d\d)_")


def in9_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find the eight variants in `bg_challenge/<variant>/val/<class>`, 224 px, as they are.

    Returns:
        By name, images whose ids tell their foregrounds. Labels are as in the embedded suite;
        which background mixed_rand has is known where the file's name says so.

    Raises:
        ValueError: If a variant or a class is missing, or a file's name has no foreground.
    """
    folder = within(source, "bg_challenge")
    classes = classes_of("in9")
    numbers: dict[str, int] = {}
    sets: dict[str, ImageSet] = {}
    for variant in IN9_VARIANTS:
        paths, labels = files_of(folder / variant / "val", classes)
        ids = []
        for path in paths:
            match = FOREGROUND.match(path.stem)
            if match is None:
                raise ValueError(f"{path} does not begin with an ImageNet wnid, as in n02085620_1")
            ids.append(numbers.setdefault(match[1], len(numbers)))
        factors = _in9_factors(variant, paths, labels)
        sets[variant] = _image_files(paths, factors, torch.tensor(ids), AS_IT_IS)
    return sets


def _in9_factors(variant: str, paths: Sequence[Path], labels: Tensor) -> Factors:
    """Labels of what is to be seen; -1 where nothing is, or it is not known."""
    unknown = torch.full_like(labels, -1)
    has_object = not variant.startswith(("only_bg", "no_fg"))
    texture = labels if has_object else unknown
    if variant == "only_fg":
        return Factors(labels, texture, unknown)
    if variant == "mixed_next":
        return Factors(labels, texture, (labels + 1) % len(classes_of("in9")))
    if variant == "mixed_rand":
        found = [BACKGROUND.search(path.stem) for path in paths]
        return Factors(labels, texture, torch.tensor([int(m[1]) if m else -1 for m in found]))
    return Factors(labels, texture, labels)


STIMULUS = re.compile(r"([a-z]+)\d+-([a-z]+)\d+")


def cue_conflict_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find the stimuli in `<shape>/<shape>n-<texture>m.png`, 224 px, as they are.

    Returns:
        `conflict`, whose shape and texture are of different classes, and `agree`, the rest.

    Raises:
        ValueError: If a class is missing, or a name is of another form.
    """
    classes = classes_of("cue_conflict")
    paths, labels = files_of(within(source, "cue-conflict"), classes)
    textures = []
    for path, label in zip(paths, labels.tolist(), strict=True):
        match = STIMULUS.fullmatch(path.stem)
        if match is None or match[1] != classes[label] or match[2] not in classes:
            raise ValueError(f"{path} is not called as a stimulus, like cat7-elephant1.png")
        textures.append(classes.index(match[2]))
    factors = Factors(labels, torch.tensor(textures), torch.full_like(labels, -1))
    images = _image_files(paths, factors, torch.arange(len(paths)), AS_IT_IS)
    agrees = factors.shape == factors.texture
    return {
        "conflict": images.select((~agrees).nonzero()[:, 0]),
        "agree": images.select(agrees.nonzero()[:, 0]),
    }


def _of_wnids(
    variant: str, folder_name: str, chosen: str | None
) -> Callable[..., dict[str, ImageSet]]:
    """Make the function that finds a suite of wnid folders; `chosen` is a column, None for all."""

    def variants(source: DataSource) -> dict[str, ImageSet]:
        table = outputs()
        wnids = list(table["wnid"] if chosen is None else table.loc[table[chosen], "wnid"])
        paths, labels = files_of(within(source, folder_name), wnids)
        unknown = torch.full_like(labels, -1)
        factors = Factors(labels, unknown, unknown)
        return {variant: _image_files(paths, factors, torch.arange(len(paths)), IMAGENET)}

    return variants


def _no_training(source: DataSource) -> ImageSet:
    """Refuse: these suites are for networks that were trained elsewhere."""
    raise ValueError(
        "official ImageNet suites are for pretrained networks, such as efficientnet-lite0; "
        "for this model take --data embedded"
    )


WORLD = TrainingDomain(
    name="imagenet",
    classes=tuple(outputs()["wnid"]),
    image_size_px=SIZE_PX,
    train=_no_training,
    unbiased=_no_training,
)

RESIZED = InputOverride(name="resize256", preprocessing=IMAGENET)
# The mean and deviation of ImageNet-9's own training images, for networks trained on ImageNet.
IN9_NORMALISED = InputOverride(
    name="in9-normalised",
    normalisation=((0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575)),
)
TOP1 = "prediction_top1"
MAPPED = "prediction_mapped"
SUM = "prediction_sum"
OF_200 = "prediction_of_200"

IN9_PROTOCOLS = (
    Protocol(
        name="in9@argmax370-v1",
        about="only the 370 outputs that count for a class decide",
        column=MAPPED,
    ),
    Protocol(
        name="in9@resize256-v1",
        about="images are resized to 256 px and cropped to 224, as in Whac-A-Mole and SubpopBench",
        view=RESIZED,
    ),
    Protocol(
        name="in9@cgn-paper-v1",
        about="as the code of the CGN paper: normalised with ImageNet-9's own mean and deviation, "
        "and divided by the images of full batches of 32",
        view=IN9_NORMALISED,
        batch_size=32,
    ),
)

CUE_CONFLICT_PROTOCOLS = (
    Protocol(
        name="cue-conflict@sum-v1",
        about="the highest sum of probabilities decides, which favours classes of many outputs",
        column=SUM,
    ),
    Protocol(
        name="cue-conflict@argmax207-v1",
        about="the most probable of the 207 outputs of a class decides, as in ood-benchmarks",
        column=MAPPED,
    ),
    Protocol(
        name="cue-conflict@argmax1000-v1",
        about="the most probable output decides, and 793 of 1,000 count for no class",
        column=TOP1,
    ),
    Protocol(
        name="cue-conflict@cgn-paper-v1",
        about="as the code of the CGN paper: resized to 256 px and cropped to 224",
        view=RESIZED,
    ),
)

IMAGENET_A_PROTOCOLS = (
    Protocol(
        name="imagenet-a@argmax1000-v1",
        about="all 1,000 outputs decide, though there are images of 200",
        column=TOP1,
    ),
)

OFFICIAL_SUITES = {
    "in9": Suite(
        name="in9-official",
        data_folder="in9",
        question=IN9.question,
        protocol="in9@madry-v1",
        world=WORLD,
        variants=in9_variants,
        # Not every name in mixed_rand says which class the background is of.
        scores=tuple(score for score in IN9.scores if score.metric != "background_decisions"),
        primary=IN9.primary,
        standard=IN9.standard,
        embedded=False,
        decision_rule=decide_in9,
        columns={MAPPED: _most_probable_mapped("in9")},
        protocols=IN9_PROTOCOLS,
        n_images=dict.fromkeys(IN9_VARIANTS, 4_050),
    ),
    "cue-conflict": Suite(
        name="cue-conflict-official",
        data_folder="cue-conflict",
        question=CUE_CONFLICT.question,
        protocol="cue-conflict@geirhos-avg-v1",
        world=WORLD,
        variants=cue_conflict_variants,
        scores=(
            shape_bias("conflict"),
            accuracy("conflict", chance=1 / 16, metric="shape_accuracy"),
            accuracy("conflict", chance=1 / 16, metric="texture_accuracy", factor="texture"),
            neither_rate("conflict", chance=14 / 16),
            accuracy("agree", chance=1 / 16),
        ),
        primary=CUE_CONFLICT.primary,
        embedded=False,
        decision_rule=decide_cue_conflict,
        columns={
            SUM: _most_probable_sum("cue_conflict"),
            MAPPED: _most_probable_mapped("cue_conflict"),
            TOP1: _most_probable("cue_conflict"),
        },
        protocols=CUE_CONFLICT_PROTOCOLS,
        n_images={"conflict": 1_200, "agree": 80},
    ),
    "imagenet-a": Suite(
        name="imagenet-a-official",
        data_folder="imagenet-a",
        question=IMAGENET_A.question,
        protocol="imagenet-a@mask200-v1",
        world=WORLD,
        variants=_of_wnids("hard", "imagenet-a", "imagenet_a"),
        scores=(accuracy("hard", chance=1 / 200),),
        primary="hard_accuracy",
        embedded=False,
        decision_rule=decide_imagenet_a,
        columns={TOP1: choose_of_1000},
        protocols=IMAGENET_A_PROTOCOLS,
        own_preprocessing=True,
        n_images={"hard": 7_500},
    ),
    "imagenet-sketch": Suite(
        name="imagenet-sketch-official",
        data_folder="imagenet-sketch",
        question=IMAGENET_SKETCH.question,
        protocol="imagenet-sketch@v1",
        world=WORLD,
        variants=_of_wnids("sketch", "sketch", None),
        scores=(
            accuracy("sketch", chance=1 / 1_000),
            top_k_accuracy(5, "sketch", chance=5 / 1_000),
        ),
        primary="sketch_accuracy",
        embedded=False,
        decision_rule=decide_imagenet,
        columns={"rank": rank},
        own_preprocessing=True,
        n_images={"sketch": 50_889},
    ),
    "imagenet": Suite(
        name="imagenet",
        question="Does the classifier recognise ordinary photographs?",
        protocol="imagenet@v1",
        world=WORLD,
        variants=_of_wnids("validation", "val", None),
        scores=(
            accuracy("validation", chance=1 / 1_000),
            top_k_accuracy(5, "validation", chance=5 / 1_000),
            accuracy_of_classes(
                "validation",
                set(_in_imagenet_a().nonzero()[:, 0].tolist()),
                metric="accuracy_on_imagenet_a_classes",
                column=OF_200,
                chance=1 / 200,
            ),
        ),
        primary="validation_accuracy",
        embedded=False,
        decision_rule=decide_imagenet,
        columns={"rank": rank, OF_200: choose_of_200},
        own_preprocessing=True,
        n_images={"validation": 50_000},
    ),
}
