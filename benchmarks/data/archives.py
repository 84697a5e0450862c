"""Archives from elsewhere: unpacked into one folder, and no further than they should go."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from cgn.data.decoding import limit, reason
from cgn.io.errors import HEAD_BYTES
from cgn.io.writing import require_room

GROWTH = 20  # times its own size that an archive may unpack to; pictures hardly shrink
SPARED_BYTES = 100 << 20  # what even the smallest may
GROWTH_VARIABLE = "CGN_BENCH_MAX_GROWTH"
OTHER_FOLDER = "name another folder"
ENTRY_BYTES = 512  # of a file in a folder, be it empty
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
OPENERS: dict[bytes, Callable[[Path], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


def growth_limit() -> int:
    """Give how many times its size an archive may unpack to; `CGN_BENCH_MAX_GROWTH` moves it."""
    return limit(GROWTH_VARIABLE, GROWTH)


def most_bytes(file: Path) -> int:
    """Tell how many bytes an archive may unpack to."""
    return max(SPARED_BYTES, growth_limit() * file.stat().st_size)


def _too_much(file: Path) -> ValueError:
    """Say that an archive unpacks to more than it may, and how to let it."""
    return ValueError(
        f"{file} would unpack to more than {most_bytes(file):,} bytes, {growth_limit()} times its "
        f"size; if it is meant to, set the environment variable {GROWTH_VARIABLE}"
    )


def require_sizes(file: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse a zip archive that would unpack to far more than itself.

    Raises:
        ValueError: If it would.
    """
    if sum(each.file_size + ENTRY_BYTES for each in members) > most_bytes(file):
        raise _too_much(file)


def unpack(file: Path, folder: Path) -> None:
    """Unpack an archive, or put a file that is none, into a folder.

    Raises:
        ValueError: If it is cut short or damaged, would write elsewhere or far more than itself, or
            the disk cannot hold it.
    """
    again = "delete it and run this again"
    try:
        if _is_tar(file):
            _unpack_tar(file, folder)
        elif zipfile.is_zipfile(file):
            _unpack_zip(file, folder)
        elif file.name.endswith(ENDINGS):
            with file.open("rb") as start:
                said = reason(
                    start.read(HEAD_BYTES), ValueError("it is of another kind, or cut short")
                )
            raise ValueError(f"{file} is no archive: {said}; {again}")
        else:
            _put(file, folder / file.name)
    except ValueError:
        raise
    except tarfile.FilterError as error:
        raise ValueError(f"{file} would write outside of its folder: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise ValueError(f"cannot unpack {file}: {error.strerror}") from None
        raise ValueError(f"{file} is cut short or damaged: {error}; {again}") from None
    except Exception as error:  # decompressors raise errors of many kinds
        said = str(error) or type(error).__name__
        raise ValueError(f"{file} is cut short or damaged: {said}; {again}") from None


def _put(file: Path, place: Path) -> None:
    """Give a file a second name, or copy it where the file system knows no such thing."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def _unpack_zip(file: Path, folder: Path) -> None:
    """Unpack a zip archive; what it says of sizes holds, for no more is read."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _require_inside(archive.namelist(), file)
        require_sizes(file, members)
        require_room(folder, sum(member.file_size for member in members), OTHER_FOLDER)
        archive.extractall(folder)


def _unpack_tar(file: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not, in one pass that ends where it grows too large."""

    def checked(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        total = 0
        for member in tar:
            total += member.size + ENTRY_BYTES
            if total > most:
                raise _too_much(file)
            require_room(folder, member.size, OTHER_FOLDER)
            yield member

    most = most_bytes(file)
    require_room(folder, file.stat().st_size, OTHER_FOLDER)
    with _uncompressed(file) as stream:
        counted = cast("BinaryIO", _Counted(stream, most + SPARED_BYTES, file))
        with tarfile.open(fileobj=counted, mode="r|") as tar:
            tar.extractall(folder, members=checked(tar), filter="data")


def _uncompressed(file: Path) -> BinaryIO:
    """Open a file, through its decompressor if it is compressed."""
    with file.open("rb") as start:
        head = start.read(8)
    opens = next((each for magic, each in OPENERS.items() if head.startswith(magic)), None)
    return cast("BinaryIO", opens(file)) if opens else file.open("rb")


def _is_tar(file: Path) -> bool:
    """Whether a file begins as a tar archive does, compressed or not."""
    try:
        with _uncompressed(file) as stream:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except Exception:  # decompressors raise errors of many kinds
        return False
    return True


class _Counted:
    """A stream that gives no more bytes than an archive may hold, headers and all."""

    def __init__(self, stream: BinaryIO, left: int, file: Path) -> None:
        self.stream, self.left, self.file = stream, left, file

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise _too_much(self.file)
        return content


def _require_inside(names: Sequence[str], file: Path) -> None:
    """Refuse a zip archive that names places outside of the folder it is unpacked to."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
            raise ValueError(f"{file} would write outside of its folder: {name!r}")
