"""Official data: where it comes from, how it is fetched, and whether it is whole.

Nothing half-made is ever taken for data: a download grows in a file of its own, is checked, and is
unpacked into a folder of its own, which gets its name when all of it has been checked.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.core.suite import DataSource, Suite
from benchmarks.data.archives import OTHER_FOLDER, unpack
from cgn.io.errors import write_errors
from cgn.io.locks import locked
from cgn.io.schema import checked, read_json
from cgn.io.writing import file_sha256, require_room, sweep, write_all, write_text, written

Progress = Callable[[int, int], None]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
OF_CONNECTIONS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
PINS = "pins.json"  # what files without a published checksum were at their first download


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that is fetched.

    Attributes:
        urls: Where it lies, tried in turn.
        size_bytes: Its published size; None if nobody says.
        sha256: Its published hash; None if nobody says.
        kept_as: The name that it gets here; empty for its own.
    """

    urls: tuple[str, ...]
    size_bytes: int | None = None
    sha256: str | None = None
    kept_as: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.kept_as or self.urls[0].rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Official data that suites read.

    Attributes:
        name: Its name on the command line, and that of its folder.
        about: What it is, in a few words.
        downloads: The files it is made of: tar or zip archives, which are unpacked; files with
            another ending are kept as they are. Empty if it cannot be fetched.
        by_hand: What the user has to do if it cannot.
        from_hand: Makes its folder, an empty one, of what the user then put into the folder of all
            data.
        mend: Puts its folder right, by what lies in the folder of all data, where the user has
            unpacked it in another form.
        licence: Under which terms.
        source: Whom to cite.
        suite: Whose images it holds; None if it has no layout of folders.
        read: Reads one of its files, where there is no suite that does; a ValueError says that it
            is something else.
    """

    name: str
    about: str
    downloads: tuple[Download, ...] = ()
    by_hand: str = ""
    from_hand: Callable[[Path, Path], None] | None = None
    mend: Callable[[Path, Path], None] = lambda folder, root: None
    licence: str
    source: str
    suite: Suite | None = None
    read: Callable[[Path], object] | None = None


def fetch(
    data: DataSet, root: Path, *, offline: bool = False, progress: Progress = lambda *_: None
) -> Path:
    """Fetch, check and unpack official data, unless it is there already.

    What an interruption left behind is taken up where it was.

    Args:
        data: What to fetch.
        root: Folder of all data sets.
        offline: Take what is there, and connect nowhere.
        progress: Called with bytes fetched of a file and bytes in all, 0 if unknown.

    Returns:
        The folder, whole and checked.

    Raises:
        ValueError: If it cannot be had, or is not what was published.
    """
    folder = root / data.name
    if folder.is_dir():
        data.mend(folder, root)
        _require_whole(data, folder)
        _remove_unpacked(data, root)
        sweep(root)
        return folder
    if data.from_hand is not None:
        with locked(folder), written(folder) as fresh:
            _make_from_hand(data, root, fresh)
        return folder
    if offline:
        raise ValueError(f"{data.name} is not in {root}, and nothing is fetched offline")
    with locked(folder):
        if not folder.is_dir():  # else another process has fetched it meanwhile
            _make(data, root, progress)
    return folder


def _make_from_hand(data: DataSet, root: Path, fresh: Path) -> None:
    """Make official data of what the user had to download."""
    assert data.from_hand is not None
    fresh.mkdir()
    try:
        data.from_hand(root, fresh)
    except ValueError as error:
        raise ValueError(f"{data.name} cannot be fetched: {data.by_hand} ({error})") from None
    _require_whole(data, fresh)


def _make(data: DataSet, root: Path, progress: Progress) -> None:
    """Download, unpack and check official data."""
    files = [_download(each, root, progress) for each in data.downloads]
    with written(root / data.name) as fresh:
        fresh.mkdir()
        try:
            for file in files:
                unpack(file, fresh)
            _require_whole(data, fresh)
        except ValueError:
            for each, file in zip(data.downloads, files, strict=True):
                if each.sha256 is None:  # nothing says that it came over whole
                    file.unlink()
            raise
        for each, file in zip(data.downloads, files, strict=True):
            _pin(each, file, root)
    for file in files:
        file.unlink()


def _remove_unpacked(data: DataSet, root: Path) -> None:
    """Remove archives that an interruption left beside what was unpacked from them."""
    for each in data.downloads:
        if not _differs(root / each.name, _pinned(each, root)):
            (root / each.name).unlink()


def _require_whole(data: DataSet, folder: Path) -> None:
    """Refuse a folder that is not what was published."""
    if problems := verify(data, folder):
        raise ValueError(f"{data.name} is not whole: {'; '.join(problems)}")


def verify(data: DataSet, folder: Path) -> list[str]:
    """Find what is off about a folder of official data.

    Args:
        data: What it should hold.
        folder: Where it is said to lie.

    Returns:
        One line a problem: a class that is missing, another number of images, a file with other
        content; none if all is well.
    """
    if data.suite is None:
        # torchvision keeps the files two folders further down.
        inner = folder / "MNIST" / "raw"
        files = {each: (inner if inner.is_dir() else folder) / each.name for each in data.downloads}
        problems = {path: _differs(path, each) for each, path in files.items()}
        lines = [f"{path} {problem}" for path, problem in problems.items() if problem]
        whole = [path for path, problem in problems.items() if not problem]
        return lines + [line for path in whole for line in _unreadable(data, path)]
    try:
        variants = data.suite.variants(DataSource(folder=folder))
    except ValueError as error:
        return [str(error)]
    counts = {name: len(images) for name, images in variants.items()}
    return [
        f"{folder} has {counts[name]:,} images of {name}, expected {n:,}"
        for name, n in data.suite.n_images.items()
        if counts[name] != n
    ]


def _unreadable(data: DataSet, path: Path) -> list[str]:
    """Say why a file is not what its data set holds; nothing if it is, or nothing reads it."""
    try:
        if data.read is not None:
            data.read(path)
    except ValueError as error:
        return [str(error)]
    return []


def _download(download: Download, root: Path, progress: Progress) -> Path:
    """Fetch one file from the first place that has it, and check it."""
    path = root / download.name
    part = root / f"{download.name}.part"
    failures = []
    for url in download.urls if not path.is_file() else ():
        try:
            _fetch_rest(url, part, download.size_bytes, progress)
        except OF_CONNECTIONS as error:
            failures.append(f"{url}: {error}")
            continue
        except OSError:
            with write_errors(part):
                raise
        part.replace(path)
        _version_file(part).unlink(missing_ok=True)
        break
    if not path.is_file():
        raise ValueError(
            f"{download.name} could not be fetched ({'; '.join(failures)}); run this again to go on"
        )
    if problem := _differs(path, _pinned(download, root)):
        path.unlink()
        raise ValueError(f"{path} {problem}; it is deleted, run this again to fetch it anew")
    return path


def _fetch_rest(url: str, part: Path, size_bytes: int | None, progress: Progress) -> None:
    """Fetch what is missing of a file, in chunks, each of which is kept if the next fails.

    Raises:
        OSError: If the connection fails.
        WriteError: If the disk does.
        http.client.IncompleteRead: If the server ends early.
    """
    done = part.stat().st_size if part.is_file() else 0
    if size_bytes is not None and done == size_bytes:
        return
    version = _version_file(part)
    headers = {"Range": f"bytes={done}-"} if done else {}
    if done and version.is_file():  # of another version nothing is taken up
        headers["If-Range"] = version.read_text(encoding="utf-8")
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # there is no more of it
            return
        raise
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server knows no ranges, or has another version by now
            _note_version(version, response.headers)
        length = response.headers["Content-Length"]
        total = done + int(length) if length else 0
        require_room(part.parent, total - done, OTHER_FOLDER)
        with write_errors(part):
            file = part.open("ab" if done else "wb", buffering=0)
        with file:
            while chunk := response.read(CHUNK_BYTES):
                with write_errors(part):
                    write_all(file, chunk)
                done += len(chunk)
                progress(done, total)
    if total and done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _version_file(part: Path) -> Path:
    """Where it is noted of which version of a file a part is."""
    return part.with_name(f"{part.name}.version")


def _note_version(file: Path, headers: Mapping[str, str]) -> None:
    """Note of which version a part is, if the server says so."""
    file.unlink(missing_ok=True)
    tag = headers["ETag"] or ""
    if version := headers["Last-Modified"] if tag.startswith("W/") or not tag else tag:
        write_text(file, version)


def _differs(path: Path, download: Download) -> str:
    """Say how a file differs from the published one; empty if it does not."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if download.size_bytes not in (None, size):
        return f"has {size:,} bytes, expected {download.size_bytes:,}"
    sha256 = file_sha256(path)
    if download.sha256 not in (None, sha256):
        return f"has the sha256 {sha256}, expected {download.sha256}"
    return ""


@dataclass(frozen=True)
class Pin:
    """What a file without a published checksum was at its first download."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Pins:
    """The file of all pins, by names of files."""

    pins: dict[str, Pin]


def _pins(root: Path) -> dict[str, dict[str, Any]]:
    """Read what files without a published checksum were at their first download."""
    path = root / PINS
    if not path.is_file():
        return {}
    return asdict(checked(Pins, {"pins": read_json(path)}, path))["pins"]  # type: ignore[no-any-return]


def _pinned(download: Download, root: Path) -> Download:
    """Fill in what is not published with what this user got the first time."""
    pin = _pins(root).get(download.name)
    return download if download.sha256 or pin is None else replace(download, **pin)


def _pin(download: Download, path: Path, root: Path) -> None:
    """Note what a file without a published checksum is; its content has been found whole."""
    if download.sha256 is not None:
        return
    sha256 = file_sha256(path)
    pin = {"size_bytes": path.stat().st_size, "sha256": sha256}
    with locked(root / PINS):
        write_text(root / PINS, json.dumps(_pins(root) | {download.name: pin}, indent=2) + "\n")
