"""ImageNet's validation images as they are published, side by side, sorted into class folders.

Which class each is of is in lists that are published beside them; any of these will do.

Source:
    Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.
    https://arxiv.org/abs/1409.0575
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.archives import unpack
from benchmarks.data.class_folders import FLAT_NAME
from cgn.data.listing import some

ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
# ImageNet's own, Kaggle's, TensorFlow's and Caffe's; the last one counts classes from 0.
LISTS = (DEVKIT, "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", "val.txt")
N_IMAGES = 50_000
MOST_BYTES = 100 << 20  # of a list
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)
WNID = re.compile(r"\bn\d{8}\b")
PLACE = re.compile(r"\.JPEG[\s,]+(\d+)$", re.IGNORECASE)


def unpack_sorted(root: Path, fresh: Path, classes: Sequence[str]) -> None:
    """Unpack the validation archive into one folder a class.

    Args:
        root: Where the archive lies, with one of `LISTS` beside it.
        fresh: An empty folder, which gets `val`.
        classes: The 1,000 wnids, in the order of ImageNet's outputs; so for `sort_flat`.

    Raises:
        ValueError: If either is missing or not as it was published.
    """
    archive = root / ARCHIVE
    if not archive.is_file():
        raise ValueError(f"there is no {ARCHIVE} in {root}")
    wnids = published_list(root, classes)
    (fresh / "val").mkdir(parents=True)
    unpack(archive, fresh / "val")
    sort_images(fresh / "val", wnids)


def sort_flat(folder: Path, root: Path, classes: Sequence[str]) -> None:
    """Sort images that lie side by side in a folder, or in `val` within it, if there are any.

    An interruption leaves some of them sorted; the next call goes on.

    Args:
        folder: The folder.
        root: Where one of `LISTS` lies.
        classes: The 1,000 wnids.

    Raises:
        ValueError: If there are such images, and no list.
    """
    for place in (folder, folder / "val"):
        if place.is_dir() and any(FLAT_NAME.fullmatch(path.name) for path in place.iterdir()):
            sort_images(place, published_list(root, classes))


def sort_images(folder: Path, wnids: Sequence[str]) -> None:
    """Move each validation image of a folder into the folder of its class.

    Args:
        folder: The images lie in it side by side; other files are left where they are.
        wnids: Their classes, in the order of their numbers.

    Raises:
        ValueError: If an image's number is beyond the list.
    """
    flat = sorted(path for path in folder.iterdir() if FLAT_NAME.fullmatch(path.name))
    for path in flat:
        number = int(path.stem[-8:])
        if not 1 <= number <= len(wnids):
            raise ValueError(f"{path} is none of the {len(wnids):,} validation images")
        place = folder / wnids[number - 1]
        place.mkdir(exist_ok=True)
        path.replace(place / path.name)


def published_list(root: Path, classes: Sequence[str]) -> list[str]:
    """Read of which class each validation image is.

    Args:
        root: Where one of `LISTS` lies.
        classes: The 1,000 wnids.

    Returns:
        The wnid of each image, in the order of their numbers.

    Raises:
        ValueError: If there is no list, or it is not as it was published: as many images of each
            of the 1,000 classes.
    """
    path = next((root / name for name in LISTS if (root / name).is_file()), None)
    if path is None:
        raise ValueError(
            f"which class an image is of is in a list that is published beside {ARCHIVE}; put one "
            f"of {', '.join(LISTS)} into {root}"
        )
    try:
        wnids = _of_devkit(path) if path.name == DEVKIT else _of_text(path, classes)
    except ValueError:
        raise
    except Exception as error:  # tarfile and scipy raise errors of many kinds
        raise ValueError(f"{path} cannot be read: {error}; fetch it anew") from None
    known = set(classes)
    counts = Counter(wnids)
    if odd := sorted(counts.keys() - known):
        raise ValueError(f"{path} names classes that are not ImageNet's 1,000: {some(odd)}")
    if len(wnids) != N_IMAGES or len(set(counts.values())) != 1 or counts.keys() != known:
        raise ValueError(
            f"{path} is not the list of the validation images: it has {len(wnids):,} of them and "
            f"{len(counts):,} classes, expected {N_IMAGES:,} and {len(known):,}, as many of each"
        )
    return wnids


def _of_text(path: Path, classes: Sequence[str]) -> list[str]:
    """Read a list with a line an image: its class by wnid or place, and its name or none."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which is no list of classes")
    found: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, wnid, place = NUMBER.search(line), WNID.search(line), PLACE.search(line)
        if wnid is None and (place is None or int(place[1]) >= len(classes)):
            continue  # a heading, or an empty line
        number = int(name[1]) if name else len(found) + 1
        if number in found:
            raise ValueError(f"{path} names image {number} twice")
        found[number] = wnid[0] if wnid else classes[int(place[1])] if place else ""
    if sorted(found) != [*range(1, len(found) + 1)]:
        raise ValueError(f"{path} lacks images: it has {len(found):,}, and not each from 1 on")
    return [found[number] for number in sorted(found)]


def _of_devkit(path: Path) -> list[str]:
    """Read the list of ImageNet's development kit: numbers of classes, and what they stand for."""
    from scipy.io import loadmat  # seconds to import

    parts: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
                if member.size > MOST_BYTES:
                    raise ValueError(f"{name} in {path} claims {member.size:,} bytes")
                content = tar.extractfile(member)
                parts[name] = content.read() if content else b""
    if len(parts) != 2:
        raise ValueError(f"{path} lacks meta.mat or ILSVRC2012_validation_ground_truth.txt")
    file: Any = io.BytesIO(parts["meta.mat"])  # scipy takes it, though its types don't say so
    synsets = loadmat(file, squeeze_me=True)["synsets"]
    wnids = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
    numbers = parts["ILSVRC2012_validation_ground_truth.txt"].split()
    return [str(wnids[int(number)]) for number in numbers]
