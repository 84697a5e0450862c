"""Archives from elsewhere: bombs are refused early, damage is named, nothing leaves its folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data import archives
from benchmarks.data.archives import unpack


def tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def bombed(header: bytes, n_bytes: int) -> bytes:
    """A tar archive, gzipped, whose first header promises zeros that never end."""
    squeezer = zlib.compressobj(9, wbits=31)
    parts = [squeezer.compress(header)]
    parts += [squeezer.compress(bytes(1 << 20)) for _ in range(n_bytes >> 20)]
    return b"".join(parts) + squeezer.flush()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SPARED_BYTES", 1 << 20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_archive_of_any_compression_is_unpacked(mode: str, tmp_path: Path, out: Path) -> None:
    files = {"a/1.txt": b"one", "a/b/2.txt": b"two"}
    (tmp_path / "x").write_bytes(tar(files, mode))
    unpack(tmp_path / "x", out)
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.txt")}
    assert found == files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", zipped({"a": bytes(20 << 20)})),
        ("x.zip", zipped({"a": bytes(20 << 20)}, zipfile.ZIP_LZMA)),
        ("x.zip", zipped({f"{i}": bytes(1 << 20) for i in range(20)})),
        ("x.zip", zipped({f"{i}": b"" for i in range(3_000)}, zipfile.ZIP_STORED)),
        ("x.tar.gz", tar({"a": bytes(20 << 20)})),
        ("x.tar.xz", tar({"a": bytes(20 << 20)}, "w:xz")),
        ("x.tar.gz", tar({f"{i}": bytes(1 << 20) for i in range(20)})),
        ("x.tar.gz", tar({f"{i}": b"" for i in range(3_000)})),
    ],
    ids=[*("zip", "lzma", "many", "empty files", "tar", "xz", "many in a tar", "empty in a tar")],
)
def test_an_archive_that_would_unpack_to_far_more_than_itself_is_refused(
    name: str, content: bytes, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(archives, "GROWTH", 2)
    with pytest.raises(ValueError, match=rf"{name} would unpack to more than .*MAX_GROWTH"):
        unpack(tmp_path / name, out)
    assert sum(path.stat().st_size for path in out.rglob("*")) <= 1 << 20
    monkeypatch.setenv("CGN_BENCH_MAX_GROWTH", "30000")
    unpack(tmp_path / name, out)


def test_a_header_that_never_ends_is_refused_before_it_fills_the_memory(
    tmp_path: Path, out: Path
) -> None:
    endless = tarfile.TarInfo("pax")
    endless.type, endless.size = tarfile.XHDTYPE, 8 << 30
    (tmp_path / "x.tar.gz").write_bytes(bombed(endless.tobuf(tarfile.GNU_FORMAT), 50 << 20))
    with pytest.raises(ValueError, match="would unpack to more than"):
        unpack(tmp_path / "x.tar.gz", out)


def test_a_tar_archive_whose_first_file_claims_gigabytes_is_refused_unread(
    tmp_path: Path, out: Path
) -> None:
    large = tarfile.TarInfo("large")
    large.size = 4 << 30
    (tmp_path / "x.tar.gz").write_bytes(bombed(large.tobuf(), 1 << 20))
    with pytest.raises(ValueError, match="would unpack to more than"):
        unpack(tmp_path / "x.tar.gz", out)
    assert not [*out.iterdir()]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.zip", b"<!DOCTYPE html>", "is no archive: it is a web page"),
        ("x.tar.gz", b"version https://git-lfs.github.com", "is no archive: it is a Git-LFS"),
        ("x.tar", b"", "is no archive: it is empty"),
        ("x.tgz", tar({"a": b"b" * 5_000})[:60], "is no archive|cut short or damaged"),
        ("x.tar.gz", tar({"a": np.random.default_rng(0).bytes(9_000)})[:-3_000], "cut short or"),
    ],
    ids=["page", "pointer", "empty", "short", "cut"],  # gzip's time stamps differ from run to run
)
def test_what_is_no_whole_archive_is_called_what_it_is(
    name: str, content: bytes, message: str, tmp_path: Path, out: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        unpack(tmp_path / name, out)


def test_whatever_bytes_an_archive_has_it_is_unpacked_or_refused_within_its_folder(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    files = {f"a/{i}": rng.bytes(300) for i in range(5)}
    kinds = [tar(files, mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")]
    kinds += [zipped(files), zipped(files, zipfile.ZIP_LZMA), zipped(files, zipfile.ZIP_BZIP2)]
    for number in range(200):
        spoiled = np.frombuffer(kinds[number % len(kinds)], np.uint8).copy()
        spoiled[rng.integers(0, len(spoiled), 5)] = rng.integers(0, 256, 5, np.uint8)
        place = tmp_path / "in" / str(number)
        place.mkdir(parents=True)
        (tmp_path / "x.tar").write_bytes(spoiled.tobytes())
        with suppress(ValueError):  # any other error fails
            unpack(tmp_path / "x.tar", place)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "x.tar"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {str(i) for i in range(200)}
