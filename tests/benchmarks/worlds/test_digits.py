"""Digits of MNIST's files: checked for what they are before anything is painted with them."""

from __future__ import annotations

import gzip
import logging
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from support import SHARED

from benchmarks.core.suite import DataSource
from benchmarks.data.sources import choose_source
from benchmarks.suites.mnists import COLORED, T10K
from benchmarks.worlds import digits as reading
from benchmarks.worlds.digits import digits, is_mnist, read_idx


def write_idx(
    folder: Path,
    n_bytes_less: int = 0,
    *,
    zipped: bool = False,
    part: str = "train",
    n: int = 60_000,
) -> None:
    """Write two of MNIST's files in zeros, the images cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lengths in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
        header = bytes([0, 0, 8, len(lengths)]) + np.array(lengths, ">i4").tobytes()
        data = header + bytes(int(np.prod(lengths)))
        data = data[: len(data) - n_bytes_less]
        data = gzip.compress(data, compresslevel=1) if zipped else data
        (folder / f"{part}-{name}-ubyte{'.gz' if zipped else ''}").write_bytes(data)


@pytest.mark.parametrize(("below", "zipped"), [("MNIST/raw", False), (".", True)])
def test_official_digits_are_found_with_their_split(
    below: str, zipped: bool, tmp_path: Path
) -> None:
    write_idx(tmp_path / below, zipped=zipped)
    source = DataSource(folder=tmp_path)
    test = digits(source, "test")
    assert test.ids.tolist() == list(range(50_000, 60_000))
    assert len(digits(source, "train").labels) == 50_000


def test_mnists_own_test_digits_are_none_of_the_training_files(tmp_path: Path) -> None:
    write_idx(tmp_path, part="t10k", n=10_000)
    assert digits(DataSource(folder=tmp_path), "t10k").ids.tolist() == list(range(60_000, 70_000))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    reading._official.cache_clear()
    with pytest.raises(ValueError, match=r"holds no t10k-labels-idx1-ubyte"):
        digits(DataSource(folder=tmp_path), "t10k")


def test_a_truncated_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_idx(tmp_path, n_bytes_less=1)
    message = r"is not MNIST's train-images.*expected 47040016 bytes, got 47040015; fetch it anew"
    with pytest.raises(ValueError, match=message):
        digits(DataSource(folder=tmp_path), "test")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_file_is_an_error_that_says_what_to_do(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(np.random.default_rng(0).bytes(1_000))
    middle = bytes(255 - each for each in whole[12:40])
    damaged = {
        "cut": whole[:500],
        "flipped": whole[:12] + middle + whole[40:],
        "no gzip": b"<html>",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"(cannot be read|is not MNIST's) .*; fetch it anew"):
        digits(DataSource(folder=tmp_path), "test")


def test_a_folder_without_digits_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no train-images.*or take the embedded digits"):
        digits(DataSource(folder=tmp_path), "test")


def write(path: Path, array: np.ndarray, magic: int | None = None, more: bytes = b"") -> Path:
    """Write an idx file by hand."""
    head = (0x800 + array.ndim if magic is None else magic).to_bytes(4, "big")
    data = head + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes() + more
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def write_mnist(folder: Path, seed: int = 0, highest: int = 9) -> None:
    """Write other data than MNIST's under the names of its training files."""
    rng = np.random.default_rng(seed)
    write(folder / "train-images-idx3-ubyte", rng.integers(0, 256, (60_000, 28, 28), np.uint8))
    labels = np.arange(60_000) % (highest + 1)
    write(folder / "train-labels-idx1-ubyte", labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 0x803}, "a file that begins with 00000801, not 00000803; fetch it anew"),
        ({"magic": 0x901}, "begins with 00000801, not 00000901"),
        ({"magic": 0x80D}, "begins with 00000801, not 0000080d"),
        ({"more": b"x"}, "expected 28 bytes, got more"),
        ({"array": np.zeros(21)}, r"for \(20,\), not \(21,\)"),
        ({"array": np.zeros(19)}, r"for \(20,\), not \(19,\)"),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_an_idx_file_of_another_form_is_refused(
    changes: dict[str, object], message: str, end: str, tmp_path: Path
) -> None:
    given: dict[str, object] = {"array": np.zeros(20)} | changes
    path = write(tmp_path / f"x{end}", **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        read_idx(path, (20,))


def test_an_idx_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for name in ("x", "x.gz"):
        assert np.array_equal(read_idx(write(tmp_path / name, array), (2, 3, 4))[0], array)


def test_of_a_file_that_unpacks_to_gigabytes_no_more_is_unpacked_than_is_needed(
    tmp_path: Path,
) -> None:
    bomb = zlib.compressobj(1, wbits=31)
    with (tmp_path / "x.gz").open("wb") as file:
        file.write(bomb.compress(bytes([0, 0, 8, 1, 0, 0, 0, 20])))
        for _ in range(300):
            file.write(bomb.compress(bytes(1 << 20)))
        file.write(bomb.flush())
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected 28 bytes, got more"):
        read_idx(tmp_path / "x.gz", (20,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_folder_without_the_files_is_told_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").touch()
    with pytest.raises(ValueError, match=r"holds no train-images.* but 'mnist\.npz'; name a"):
        digits(DataSource(folder=tmp_path), "train")


def test_names_with_a_full_stop_are_mnists_too(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for path in [*tmp_path.iterdir()]:
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(digits(DataSource(folder=tmp_path), "test").labels) == 10_000


def test_labels_of_more_than_ten_classes_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, highest=46)
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte has 47,230 labels above 9, up to 46"):
        digits(DataSource(folder=tmp_path), "train")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"version https://git-lfs", b""])
def test_what_is_no_gzip_file_is_called_what_it_is(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a web page|a Git-LFS pointer|expected 28 bytes, got 0"):
        read_idx(tmp_path / "x.gz", (20,))


def test_other_data_under_mnists_names_is_custom_and_said_to_be_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_mnist(tmp_path)
    with caplog.at_level(logging.WARNING):
        source = choose_source(COLORED, tmp_path)
    assert source.name == "custom"
    assert "holds other data under the file names of colored-mnist" in caplog.text
    assert DataSource(folder=tmp_path, textures=tmp_path, custom=True).name == "custom+textures"
    assert len(digits(source, "train").labels) == 50_000


@pytest.mark.shared("mnist")
def test_mnist_is_official_and_its_images_under_other_labels_are_not(tmp_path: Path) -> None:
    folder = SHARED / "mnist"
    for suite in (COLORED, *T10K):
        assert choose_source(suite, folder).name == "official"
    raw = folder / "MNIST" / "raw"
    for path in raw.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert is_mnist(DataSource(folder=tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    write(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(10_000))
    is_mnist.cache_clear()
    assert not is_mnist(DataSource(folder=tmp_path))
