"""Sound files of every kind that is read here, what reads them, and ways to damage them."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imagenet_networks import tiny_cgn
from PIL import Image
from safetensors.torch import save_file
from support import FirstRow, run_model, tiny_images, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, DataSource
from benchmarks.data.download import DataSet, Download, fetch
from benchmarks.records import predictions
from benchmarks.records.runs import read_runs
from benchmarks.suites.backgrounds_challenge import Outcome, outcomes_kept
from benchmarks.worlds import digits
from cgn.counterfactuals.shards import SetConfig, generate, load_shards
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet, load_sets, save_sets
from cgn.data.preprocessing import Preprocessing
from cgn.models.cgn import CGN, CGNConfig
from cgn.models.imagenet.pretrained import load_imagenet_cgn, load_u2net
from cgn.segmentation.files import masks_from_files
from classifiers import load_model
from classifiers.checkpoints import load_classifier, save_classifier
from classifiers.networks.small import InvariantEnsemble

ARCHITECTURE = "timm:test_vit"
SIZE = Preprocessing(16, 16)


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        make: Writes sound files into a folder.
        read: Reads what lies in a folder, as a command would; a ValueError or an OSError that names
            what cannot be read is all that it may raise.
        called: What messages may call it instead, where several files are read as one.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    called: str = ""


def network_state() -> dict[str, torch.Tensor]:
    import timm

    return dict(timm.create_model(ARCHITECTURE.partition(":")[2], num_classes=3).state_dict())


def make_images(folder: Path) -> None:
    """Write pictures of two classes, in several formats."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for name, picture in {
        "a/1.png": Image.fromarray(pixels),
        "a/2.jpg": Image.fromarray(pixels),
        "a/3.webp": Image.fromarray(pixels),
        "b/1.png": Image.fromarray(pixels[..., 0]),
        "b/2.png": Image.fromarray(pixels).convert("P"),
        "b/3.png": Image.fromarray(pixels).convert("RGBA"),
        "b/4.tif": Image.fromarray(pixels),
        "b/5.bmp": Image.fromarray(pixels),
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        picture.save(path)


def read_images(folder: Path) -> object:
    images, _ = image_folder(folder, SIZE)
    return images.pixels


def make_masks(folder: Path) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:12] = 255
    np.save(folder / "1.npy", mask > 0)
    np.save(folder / "2.npy", mask)
    Image.fromarray(mask).save(folder / "3.png")
    Image.fromarray(mask).convert("1").save(folder / "4.png")


def make_idx(folder: Path) -> None:
    """Write files of MNIST's form, empty but for their headers and labels."""
    for name, n in (("train", 60_000), ("t10k", 10_000)):
        pixels = struct.pack(">IIII", 2051, n, 28, 28) + bytes(n * 784)
        labels = struct.pack(">II", 2049, n) + bytes(i % 10 for i in range(n))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels, 1))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)


def read_idx(folder: Path) -> object:
    for each in vars(digits).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()
    return digits.digits(DataSource(folder=folder), "t10k").pixels


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def make_tar(folder: Path) -> None:
    with tarfile.open(folder / "data.tar.gz", "w:gz", compresslevel=1) as tar:
        for name in ("images.txt", "a/1.png", "b/1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture())
            tar.addfile(member, io.BytesIO(picture()))


def make_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images.txt", "a/1.png", "b/1.png"):
            archive.writestr(name, picture())


def read_archive(folder: Path) -> object:
    (path,) = folder.iterdir()
    download = Download(urls=(path.resolve().as_uri(),))
    data = DataSet(
        name="data", about="", downloads=(download,), licence="", source="", suite=tiny_suite()
    )
    return fetch(data, folder / "unpacked")


def make_results(folder: Path) -> None:
    suite = tiny_suite()
    run_model(folder, evaluate(FirstRow(), suite.variants(EMBEDDED))[0])


def make_outcomes(folder: Path) -> None:
    lines = [json.dumps(Outcome(-1, i, 0.5, 3, 0).__dict__) for i in range(5)]
    (folder / "outcomes.jsonl").write_text("\n".join(lines) + "\n")


def read_outcomes(folder: Path) -> object:
    return list(outcomes_kept(folder / "outcomes.jsonl", lambda known: iter(())))


def read_first(folder: Path, read: Callable[[Path], object]) -> object:
    """Read the only file of a folder."""
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    return read(path)


def of_file(make: Callable[[Path], object], name: str, read: Callable[[Path], object]) -> Kind:
    """One file, by its name."""
    return Kind(lambda folder: make(folder / name), lambda folder: read_first(folder, read))


def read_network(path: Path) -> object:
    return load_model(f"file:{path}#arch={ARCHITECTURE}")


def tiny_world_cgn() -> CGN:
    return CGN(CGNConfig(n_classes=3, image_size_px=16, width=8, noise_size=4, tile_px=16))


KINDS: Mapping[str, Kind] = {
    "network.safetensors": of_file(
        lambda path: save_file(network_state(), path), "my.safetensors", read_network
    ),
    "network.pth": of_file(
        lambda path: torch.save({"state_dict": network_state()}, path), "my.pth", read_network
    ),
    "old.pth": of_file(
        lambda path: torch.save(network_state(), path, _use_new_zipfile_serialization=False),
        "old.pth",
        read_network,
    ),
    "cgn": of_file(lambda path: tiny_world_cgn().save(path, {}), "cgn.safetensors", CGN.load),
    "imagenet cgn": of_file(
        lambda path: tiny_cgn()[0].save(path, {}), "cgn.safetensors", load_imagenet_cgn
    ),
    "u2net": of_file(
        lambda path: torch.save(load_u2net("random:4").state_dict(), path),
        "u2net.pth",
        lambda path: load_u2net(str(path)),
    ),
    "classifier": of_file(
        lambda path: save_classifier(
            path,
            InvariantEnsemble(3, 16),
            {"recipe": "cgn-ensemble", "n_classes": 3, "image_size_px": 16},
        ),
        "classifier.safetensors",
        load_classifier,
    ),
    "image set": of_file(lambda path: tiny_images(0).save(path), "set.safetensors", ImageSet.load),
    "image sets": of_file(
        lambda path: save_sets(path, {"easy": tiny_images(0)}), "sets.safetensors", load_sets
    ),
    "images": Kind(make_images, read_images),
    "masks": Kind(make_masks, lambda folder: masks_from_files(sorted(folder.iterdir()), 16)),
    "idx": Kind(make_idx, read_idx),
    "tar": Kind(make_tar, read_archive),
    "zip": Kind(make_zip, read_archive),
    "predictions": Kind(
        lambda folder: make_results(folder),
        lambda folder: [predictions.load(path) for path in folder.rglob("*.parquet")],
    ),
    "runs.csv": Kind(make_results, read_runs),
    "outcomes": Kind(make_outcomes, read_outcomes),
    "shards": Kind(
        lambda folder: generate(
            tiny_cgn()[0].eval(), SetConfig(n=3, shard_size=2, image_format="png"), folder
        ),
        lambda folder: load_shards(folder, folder / "cache").pixels,
        called="of the set of counterfactuals",
    ),
}

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>\n"
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 31,
    1 << 63,
    1e308,
    "",
    "\x1b[2J",
    "../../x",
    [],
    {},
    [[]],
    "a" * 300,
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of many ways; the same state of `rng` does it alike."""
    return rng.choice(DAMAGES)(data, rng)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off, as an interruption does."""
    return data[: rng.randrange(len(data) + 1)]


def flip(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, most often near the ends, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        reach = min(len(data), rng.choice((16, 256, 4_096, len(data))))
        place = rng.randrange(reach)
        place = place if rng.random() < 0.6 else len(data) - 1 - place
        changed[place] = rng.choice((0, 0xFF, 0x7F, changed[place] ^ (1 << rng.randrange(8))))
    return bytes(changed)


def insert(data: bytes, rng: random.Random) -> bytes:
    """Put something between, or a part twice."""
    place, begin = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    more = rng.choice((rng.randbytes(9), bytes(64), b"\n", data[begin : begin + 500]))
    return data[:place] + more + data[place:]


def whole(data: bytes, rng: random.Random) -> bytes:
    """Put something else in its place."""
    options = (b"", PAGE, LFS, bytes(len(data)), rng.randbytes(500), b"\x80\x02.", b"{}", b"[]\n")
    return rng.choice((*options, gzip.compress(data, 1), data * 2))


def number(data: bytes, rng: random.Random) -> bytes:
    """Put a large or a negative number where one may stand, in either order of bytes."""
    place = rng.randrange(min(len(data), rng.choice((16, 64, 1_024))) + 1)
    value = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1_000_000, 65_500))
    return data[:place] + struct.pack(rng.choice((">I", "<I")), value) + data[place + 4 :]


def header(data: bytes, rng: random.Random) -> bytes:
    """Change what a safetensors header or a JSON text says, and keep its form."""
    if len(data) >= 8 and (size := int.from_bytes(data[:8], "little")) <= len(data) - 8:
        try:
            fields = json.loads(data[8 : 8 + size])
        except ValueError:
            return flip(data, rng)
        text = json.dumps(changed(fields, rng)).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]
    try:
        return json.dumps(changed(json.loads(data), rng)).encode()
    except ValueError:
        return words(data, rng)


def changed(value: Any, rng: random.Random) -> Any:
    """Change one value within something that JSON can hold."""
    if isinstance(value, str) and value[:1] in ("{", "["):  # JSON in JSON
        try:
            return json.dumps(changed(json.loads(value), rng))
        except ValueError:
            return rng.choice(ODD)
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return rng.choice(ODD)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    copy = value.copy()
    if rng.random() < 0.2:
        del copy[key]
    else:
        copy[key] = changed(value[key], rng)
    return copy


def words(data: bytes, rng: random.Random) -> bytes:
    """Change one word of a text, or a line of it."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    cells = lines[place].split(b",")
    odd = (b"", b"nan", b"-1", b'"', b"\x00", b"\xff\xfe", b"\x1b[2J", b"9" * 400, b"=1+1", b"{")
    cells[rng.randrange(len(cells))] = rng.choice(odd)
    lines[place] = b",".join(cells)
    return b"\n".join(lines)


DAMAGES = (cut, flip, flip, insert, whole, number, header, header, words)
