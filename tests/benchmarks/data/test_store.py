from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from support import patch_commands

from benchmarks import cli
from benchmarks.core.suite import DataSource
from benchmarks.data import download as store
from benchmarks.data.class_folders import list_classes
from benchmarks.data.download import DataSet, Download, fetch, verify
from benchmarks.data.paths import official_folder
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.suites.data_sets import DATA_SETS
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import ImageSet

CLASSES = ("bird", "cat", "dog")
N_PER_CLASS = 4


@dataclass
class Server:
    """What the loopback server serves, how it misbehaves, and what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ends_after: int | None = None  # bytes of the next answer
    knows_ranges: bool = True

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path[1:], self.headers["Range"]
            state.asked.append((name, wanted))
            if name not in state.files:
                self.send_error(404)
                return
            content, begin = state.files[name], 0
            if wanted and state.knows_ranges:
                begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if begin >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            self.wfile.write(content[begin:][: state.ends_after])
            state.ends_after = None

        def log_message(self, format: str, *arguments: object) -> None:
            """Stay silent."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def animals(n_per_class: int = N_PER_CLASS, classes: tuple[str, ...] = CLASSES) -> dict[str, bytes]:
    """Files of an archive, by name; contents that do not compress."""
    generator = torch.Generator().manual_seed(0)

    def content() -> bytes:
        return bytes(torch.randint(256, (5_000,), generator=generator).tolist())

    return {f"zoo/{name}/{i}.png": content() for name in classes for i in range(n_per_class)}


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), mtime=0)  # the same bytes at any time


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def zoo_variants(source: DataSource) -> dict[str, ImageSet]:
    assert source.folder is not None
    paths, labels = list_classes(source.folder / "zoo", CLASSES)
    factors = Factors.aligned(labels)
    images = ImageSet(FileReader(paths, 8), factors, torch.arange(len(paths)))
    return {"all": images}


ZOO = replace(
    OFFICIAL_SUITES["imagenet"], variants=zoo_variants, n_images={"all": len(CLASSES) * N_PER_CLASS}
)
Make = Callable[..., DataSet]


@pytest.fixture
def make(server: Server) -> Make:
    """Serve an archive, and describe it."""

    def zoo(content: bytes, name: str = "zoo.tar.gz", **changes: Any) -> DataSet:
        server.files[name] = content
        known: dict[str, Any] = {
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        download = Download(**{"urls": (server.url(name),), **known, **changes})
        return DataSet(
            name="zoo", about="", downloads=(download,), licence="", source="", suite=ZOO
        )

    return zoo


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} if root.is_dir() else set()


@pytest.mark.parametrize(("pack", "name"), [(tar, "zoo.tar.gz"), (zipped, "zoo.zip")])
def test_what_is_fetched_is_whole_and_alone_and_not_fetched_again(
    pack: Callable[[dict[str, bytes]], bytes], name: str, make: Make, server: Server, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    data = make(pack(animals()), name)
    folder = fetch(data, tmp_path, progress=lambda *each: seen.append(each))
    files = animals()
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")} == set(files)
    assert all((folder / n).read_bytes() == content for n, content in files.items())
    assert left(tmp_path) == {"zoo"}
    assert seen[-1][0] == seen[-1][1] == len(server.files[name])
    fetch(data, tmp_path)
    assert len(server.asked) == 1


def test_an_interrupted_download_goes_on_where_it_was(
    make: Make, server: Server, tmp_path: Path
) -> None:
    data = make(tar(animals()))
    server.ends_after = 20_000
    with pytest.raises(ValueError, match=r"could not be fetched .*; run this again to go on"):
        fetch(data, tmp_path)
    assert left(tmp_path) == {"zoo.tar.gz.part"}
    fetch(data, tmp_path)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=20000-"]
    assert verify(data, tmp_path / "zoo") == []


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(
    make: Make, server: Server, tmp_path: Path
) -> None:
    data = make(tar(animals()))
    server.knows_ranges, server.ends_after = False, 20_000
    with pytest.raises(ValueError, match="could not be fetched"):
        fetch(data, tmp_path)
    assert verify(data, fetch(data, tmp_path)) == []


def test_a_download_that_was_complete_is_not_asked_for_again(
    make: Make, server: Server, tmp_path: Path
) -> None:
    data = make(tar(animals()))
    unknown = make(tar(animals()), size_bytes=None)
    for each, n_asked in ((data, 0), (unknown, 1)):
        root = tmp_path / str(n_asked)
        root.mkdir()
        (root / "zoo.tar.gz.part").write_bytes(server.files["zoo.tar.gz"])
        fetch(each, root)
        assert len(server.asked) == n_asked


def test_a_mirror_is_taken_if_the_first_place_has_nothing(
    make: Make, server: Server, tmp_path: Path
) -> None:
    urls = (server.url("gone/zoo.tar.gz"), server.url("zoo.tar.gz"))
    fetch(make(tar(animals()), urls=urls), tmp_path)
    assert [name for name, _ in server.asked] == ["gone/zoo.tar.gz", "zoo.tar.gz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "has the sha256 [0-9a-f]{64}, expected 000"),
        ({"size_bytes": 7}, r"has [0-9,]+ bytes, expected 7"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_refused_and_deleted(
    changes: dict[str, Any], message: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(make(tar(animals()), **changes), tmp_path)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (tar(animals(classes=("bird", "cat"))), "a.tar.gz", "has no class folder 'dog'"),
        (tar(animals(classes=(*CLASSES, "yak"))), "a.tar.gz", "a folder of no class: 'yak'"),
        (tar(animals(3)), "a.tar.gz", "has 9 images of all, expected 12"),
        (tar(animals(5)), "a.tar.gz", "has 15 images of all, expected 12"),
        (tar(animals())[:30_000], "a.tar.gz", "cut short or damaged"),
        (zipped(animals())[:30_000], "a.zip", "is no archive"),
        (tar({"../../evil.png": b"x"}), "a.tar.gz", "would write outside of its folder"),
        (tar({"/evil.png": b"x", "zoo/bird": b""}), "a.tar.gz", "zoo is not whole|outside"),
        (zipped({"../evil.png": b"x"}), "a.zip", "would write outside of its folder: '../evil"),
        (zipped({"/evil.png": b"x"}), "a.zip", "would write outside of its folder"),
    ],
    ids=[
        *("missing", "odd", "few", "many", "cut tar", "cut zip"),
        *("up tar", "root tar", "up zip", "root zip"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_leaves_no_data(
    content: bytes, name: str, message: str, make: Make, tmp_path: Path
) -> None:
    root = tmp_path / "a" / "data"
    with pytest.raises(ValueError, match=message):
        fetch(make(content, name), root)
    assert not (root / "zoo").exists()
    assert left(root) <= {name}
    assert left(tmp_path / "a") == {"data"}


def test_what_the_disk_cannot_hold_is_refused_before_it_is_fetched(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"has room for 0\.0 GB, and 0\.0 are needed; make room"):
        fetch(make(tar(animals())), tmp_path)
    assert left(tmp_path) == set()


def test_a_disk_that_fills_up_keeps_what_was_fetched(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        (tmp_path / "zoo.tar.gz.part").write_bytes(b"begun")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_fetch_rest", full)
        with pytest.raises(ValueError, match=r"No space left on device; make room, and run"):
            fetch(make(tar(animals())), tmp_path)
    assert left(tmp_path) == {"zoo.tar.gz.part"}


def test_a_checksum_nobody_published_is_pinned_at_the_first_download(
    make: Make, server: Server, tmp_path: Path
) -> None:
    unknown = make(tar(animals()), size_bytes=None, sha256=None)
    fetch(unknown, tmp_path)
    pins = json.loads((tmp_path / "pins.json").read_text())
    content = server.files["zoo.tar.gz"]
    assert pins["zoo.tar.gz"]["sha256"] == hashlib.sha256(content).hexdigest()
    shutil.rmtree(tmp_path / "zoo")
    server.files["zoo.tar.gz"] = tar(animals(classes=("bird",)))
    with pytest.raises(ValueError, match=r"has [0-9,]+ bytes, expected|has the sha256"):
        fetch(unknown, tmp_path)


@pytest.mark.parametrize("content", [tar(animals())[:30_000], tar(animals(3))], ids=["cut", "few"])
def test_a_first_download_that_is_not_whole_is_neither_pinned_nor_kept(
    content: bytes, make: Make, server: Server, tmp_path: Path
) -> None:
    unknown = make(content, size_bytes=None, sha256=None)
    with pytest.raises(ValueError, match=r"cut short or damaged|has 9 images of all"):
        fetch(unknown, tmp_path)
    assert left(tmp_path) == set()
    server.files["zoo.tar.gz"] = tar(animals())
    assert verify(unknown, fetch(unknown, tmp_path)) == []


def test_offline_takes_what_is_there_and_connects_nowhere(
    make: Make, server: Server, tmp_path: Path
) -> None:
    data = make(tar(animals()))
    with pytest.raises(ValueError, match=r"zoo is not in .*, and nothing is fetched offline"):
        fetch(data, tmp_path, offline=True)
    assert server.asked == []
    fetch(data, tmp_path)
    assert fetch(data, tmp_path, offline=True) == tmp_path / "zoo"
    assert len(server.asked) == 1


def test_a_folder_that_lost_images_is_not_taken_for_whole(make: Make, tmp_path: Path) -> None:
    data = make(tar(animals()))
    (fetch(data, tmp_path) / "zoo" / "cat" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"zoo is not whole: .* has 11 images of all, expected 12"):
        fetch(data, tmp_path)


def test_data_behind_a_registration_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"imagenet cannot be fetched: register at .* run this"):
        fetch(DATA_SETS["imagenet"], tmp_path)


def test_files_that_are_no_archives_are_kept_as_they_are(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"images.gz": b"i" * 100, "labels.gz": b"l"}
    downloads = tuple(
        Download(urls=(server.url(name),), sha256=hashlib.sha256(content).hexdigest())
        for name, content in server.files.items()
    )
    digits = replace(DATA_SETS["mnist"], downloads=downloads)
    folder = fetch(digits, tmp_path)
    assert left(folder) == {"images.gz", "labels.gz"}
    (folder / "labels.gz").write_bytes(b"x")
    assert "labels.gz has the sha256" in verify(digits, folder)[0]
    (folder / "labels.gz").unlink()
    assert verify(digits, folder) == [f"{folder / 'labels.gz'} is missing"]


def test_every_data_set_can_be_fetched_or_says_how_and_its_suite_reads_its_folder() -> None:
    for name, data in DATA_SETS.items():
        assert name == data.name
        assert bool(data.downloads) != bool(data.by_hand)
        assert all(url.startswith("https://") for each in data.downloads for url in each.urls)
        if data.suite is not None:
            assert official_folder(data.suite).name == name


@pytest.fixture
def one_set(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command line knows this one set, and looks for data in a folder of this test."""
    patch_commands(monkeypatch, "DATA_SETS", {"zoo": make(tar(animals()))})
    monkeypatch.setenv("CGN_BENCH_DATA", str(tmp_path))


@pytest.mark.usefixtures("one_set")
def test_the_command_lists_fetches_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data"]) == 0
    assert "zoo" in capsys.readouterr().out
    assert cli.main(["data", "zoo", "--offline"]) == 2
    assert cli.main(["data", "zoo"]) == 0
    assert f"zoo is whole, in {tmp_path / 'zoo'}" in capsys.readouterr().out
    assert cli.main(["data", "--verify"]) == 0
    (tmp_path / "zoo" / "zoo" / "dog" / "0.png").unlink()
    assert cli.main(["data", "zoo", "--verify"]) == 1
    assert "has 11 images of all, expected 12" in capsys.readouterr().out
    assert cli.main(["data", "zop"]) == 2
    assert "did you mean 'zoo'?" in capsys.readouterr().err
