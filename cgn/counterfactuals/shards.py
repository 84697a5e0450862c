"""Large sets of counterfactuals on disk, in shards that any number of processes write.

Shards are Parquet files in the form of the Hugging Face `datasets` library, which reads them as
`load_dataset("parquet", data_files="FOLDER/*.parquet")`, images decoded.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from cgn.counterfactuals.sampling import choose_classes
from cgn.data.decoding import decode
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, Reader, to_bytes
from cgn.data.preprocessing import AS_IT_IS, DECODERS, Preprocessing, decoders, stack_channels_last
from cgn.device.distributed import ProcessGroup
from cgn.device.graphs import Captured
from cgn.device.transfer import sent
from cgn.io.cache import cache_key, weights_sha256
from cgn.io.locks import locked
from cgn.io.schema import checked, read_json, require_in_range
from cgn.io.writing import require_room, write_text, written
from cgn.models.imagenet.cgn import ImageNetCGN, ImageNetConfig, truncated_noise

MANIFEST = "set.json"
IMAGE = "image"
LEAST_BYTES_A_PIXEL = 0.05  # of JPEG files, so that a set that can never fit is found at once


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """Everything that fixes a set of counterfactuals, but for the weights they are drawn with.

    Attributes:
        n: Images.
        classes: "random", "best", or three labels as in "207,340,970".
        truncation: Of the noise, in (0, 1].
        seed: Of all random numbers.
        shard_size: Images a file.
        image_format: jpeg has 20 kB an image, png 100 kB and loses nothing.
        jpeg_quality: From 1 to 100.

    Raises:
        ValueError: If a number is out of its range, or there is no such image format.
    """

    n: int
    classes: str = "random"
    truncation: float = 0.5
    seed: int = 0
    shard_size: int = 1_000
    image_format: Literal["jpeg", "png"] = "jpeg"
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        require_in_range(self)
        if self.image_format not in ("jpeg", "png"):
            raise ValueError(f"image_format must be jpeg or png, got {self.image_format!r}")

    @property
    def n_shards(self) -> int:
        """How many files."""
        return -(-self.n // self.shard_size)

    def shard_name(self, shard: int) -> str:
        """Name of one file."""
        return f"counterfactuals-{shard:05}-of-{self.n_shards:05}.parquet"


@dataclass(frozen=True, kw_only=True)
class Manifest(SetConfig):
    """What the folder of a set says of it; the last two are empty in older sets."""

    weights_sha256: str  # of the CGN that drew it
    drawn_by: str = ""  # hash of its config, which weights don't tell
    dtype: str = ""  # what the maps were computed in


def shard_seed(seed: int, shard: int) -> int:
    """Derive the seed of a shard, so that it does not matter who draws it and after what.

    Example:
        >>> shard_seed(0, 0) == shard_seed(0, 1)
        False
    """
    digest = hashlib.sha256(f"{seed}/{shard}".encode()).digest()
    return int.from_bytes(digest[:7], "big")  # fits an int64


def generate(
    cgn: ImageNetCGN,
    config: SetConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    batch_size: int = 1,
    team: ProcessGroup = ProcessGroup(),  # noqa: B008
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw a set of counterfactuals into a folder; shards that are there are left alone.

    Args:
        cgn: Draws the images.
        config: What to draw.
        folder: Is made if it is missing.
        device: Where this process draws.
        dtype: Of the maps; bfloat16 is faster where the device knows it.
        batch_size: Images at once; it changes them no more than rounding does.
        team: The processes that share the work; each writes whole shards of its own.
        progress: Called with images done or found, and images in all, of this process.

    Raises:
        ValueError: If the folder holds another set, or the disk has no room for this one.
        WriteError: If nothing can be written there.
    """
    drawn_by = cache_key(asdict(cgn.config), [])
    drawn_with = {"weights_sha256": weights_sha256(cgn), "drawn_by": drawn_by, "dtype": str(dtype)}
    if team.is_main_process:
        _claim(folder, asdict(config) | drawn_with)
        names = [config.shard_name(shard) for shard in range(config.n_shards)]
        missing = [name for name in names if not (folder / name).is_file()]
        n_pixels = len(missing) * min(config.n, config.shard_size) * cgn.config.image_size_px**2
        require_room(folder, int(n_pixels * LEAST_BYTES_A_PIXEL))
    team.barrier()
    fast = cgn.for_sampling(dtype).to(device)

    def draw(noise: Tensor, *labels: Tensor) -> Tensor:
        return fast.draw(noise, Factors(*labels), config.truncation).image()

    captured = Captured(draw)

    def pixels(*inputs: Tensor) -> Tensor:
        # A smaller last batch of a shard does not fit the graph, and must not become one.
        call = captured if len(inputs[0]) == batch_size else draw
        return to_bytes(call(*(sent(each, torch.device(device)) for each in inputs))).cpu()

    own = range(team.rank, config.n_shards, team.size)
    for done, shard in enumerate(own, 1):
        path = folder / config.shard_name(shard)
        with locked(path):  # against processes of another team
            if not path.is_file():
                _write(_rows(pixels, cgn.config, config, shard, batch_size), path)
        if progress is not None:
            progress(done, len(own))
    team.barrier()


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note in the folder what it holds, or find that it already does."""
    manifest = folder / MANIFEST
    with locked(manifest):
        if not manifest.is_file():
            write_text(manifest, json.dumps(about, indent=2) + "\n")
        stored = asdict(checked(Manifest, read_json(manifest), manifest))
        if odd := [name for name in about if about[name] != stored[name]]:
            raise ValueError(
                f"{folder} holds another set: it differs in {', '.join(odd)}; name another folder, "
                "or repeat the command it was made with"
            )


@torch.inference_mode()
def _rows(
    draw: Callable[..., Tensor], sizes: ImageNetConfig, config: SetConfig, shard: int, at_once: int
) -> dict[str, list[Any]]:
    """Draw one shard, as columns; while a batch is drawn the one before it is encoded."""
    first = shard * config.shard_size
    n = min(config.shard_size, config.n - first)
    seed = shard_seed(config.seed, shard)
    generator = torch.Generator().manual_seed(seed)
    factors = choose_classes(config.classes, n, sizes.n_classes, generator)
    noise = truncated_noise(n, sizes.noise_size, generator, config.truncation)
    encoded: list[bytes] = []
    with ThreadPoolExecutor(DECODERS) as pool:
        encoding: list[Future[bytes]] = []
        for index in torch.arange(n).split(at_once):
            pixels = draw(noise[index], *(labels[index] for labels in factors))
            encoded += [each.result() for each in encoding]
            images = pixels.movedim(1, -1).numpy()
            encoding = [pool.submit(_encode, image, config) for image in images]
        encoded += [each.result() for each in encoding]
    return {
        IMAGE: [{"bytes": each, "path": None} for each in encoded],
        **{name: labels.tolist() for name, labels in factors._asdict().items()},
        "id": list(range(first, first + n)),
        "seed": [seed] * n,
        "sha256": [hashlib.sha256(each).hexdigest() for each in encoded],
    }


def _encode(pixels: Any, config: SetConfig) -> bytes:
    """Turn pixels, (H, W, 3) uint8, into a file."""
    file = io.BytesIO()
    quality = {"quality": config.jpeg_quality} if config.image_format == "jpeg" else {}
    Image.fromarray(pixels).save(file, config.image_format, **quality)
    return file.getvalue()


def _write(columns: dict[str, list[Any]], path: Path) -> None:
    """Write a shard atomically, in the form of `datasets`."""
    import datasets  # seconds to import
    import pyarrow as pa
    from pyarrow import parquet

    numbers = dict.fromkeys((*Factors._fields, "id", "seed"), datasets.Value("int64"))
    features = {IMAGE: datasets.Image(), **numbers, "sha256": datasets.Value("string")}
    table = pa.table(columns, schema=datasets.Features(features).arrow_schema)
    with written(path) as place:
        parquet.write_table(table, place, row_group_size=100)


@dataclass(frozen=True, eq=False)
class ShardReader(Reader):
    """Images in the rows of shards.

    Attributes:
        table: The rows of all shards, of the library `datasets`.
        rows: Those of the images, in their order, (N,) int64.
        folder: Where the shards lie.
        config: Says which image is in which.
        preprocessing: How images become squares of pixels.
    """

    table: Any
    rows: Tensor
    folder: Path
    config: SetConfig
    preprocessing: Preprocessing = AS_IT_IS

    @property
    @override
    def size_px(self) -> tuple[int, int]:
        height, width = self.read(slice(1)).shape[2:]
        return height, width

    def __len__(self) -> int:
        return len(self.rows)

    @override
    def read(self, index: Tensor | slice) -> Tensor:
        """Decode the chosen images, (B, 3, H, W) uint8.

        Raises:
            ValueError: If one cannot be read, or is of another size; the message names its shard.
        """
        rows = self.rows[index].tolist()
        files = [file["bytes"] for file in self._column(IMAGE, rows)]
        shards = [self.folder / self.config.shard_name(r // self.config.shard_size) for r in rows]
        names = [f"image {row}, in {shard}," for row, shard in zip(rows, shards, strict=True)]
        images = list(decoders().map(self._decode, files, names))
        for name, image in zip(names, images, strict=True):
            if image.shape != images[0].shape:
                sizes = [tuple(each.shape[1:]) for each in (image, images[0])]
                raise ValueError(f"{name} has {sizes[0]} pixels, others {sizes[1]}")
        return stack_channels_last(images)

    def _column(self, name: str, rows: list[int]) -> list[Any]:
        """Read one column of some rows, and nothing else of them.

        Raises:
            ValueError: If it is damaged; the message names the folder.
        """
        try:
            column: list[Any] = self.table.select_columns(name)[rows][name]
        except Exception as error:  # datasets and pyarrow raise errors of many kinds
            raise _unreadable(self.folder, error) from None
        return column

    def _decode(self, file: bytes, name: str) -> Tensor:
        return self.preprocessing.apply(decode(file, name), name)

    @override
    def select(self, index: Tensor | slice) -> ShardReader:
        return replace(self, rows=self.rows[index])

    @override
    def prepared(self, preprocessing: Preprocessing) -> ShardReader:
        return replace(self, preprocessing=preprocessing)

    @override
    def sha256(self, factors: Factors, masks: Tensor | None) -> str:
        digest = hashlib.sha256()
        for row in self._column("sha256", self.rows.tolist()):
            digest.update(row.encode())
        for labels in factors:
            digest.update(labels.contiguous().numpy().data)
        return digest.hexdigest()


def _unreadable(folder: Path, error: Exception) -> ValueError:
    """Name the folder of shards that raised an error, and the cure."""
    reason = " ".join(str(error).split())[:200]
    return ValueError(
        f"the shards of {folder} cannot be read: {reason}; delete those that are damaged and "
        "repeat the command that made them"
    )


def load_shards(folder: Path, cache: Path | None = None) -> ImageSet:
    """Open a set that `generate` wrote.

    Args:
        folder: Its folder.
        cache: Where `datasets` keeps its memory-mapped copy; None takes its own place.

    Raises:
        ValueError: If there is no set, or shards are missing.
    """
    import datasets  # seconds to import

    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(f"{folder} holds no set of counterfactuals: there is no {MANIFEST}")
    config = checked(Manifest, read_json(manifest), manifest)
    paths = [folder / config.shard_name(shard) for shard in range(config.n_shards)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(paths)} shards, {missing[0]} first; repeat the "
            "command that made it, and it goes on"
        )
    try:
        table = datasets.Dataset.from_parquet(
            [escape(str(path)) for path in paths], cache_dir=None if cache is None else str(cache)
        ).cast_column(IMAGE, datasets.Image(decode=False))
        numbers = table.select_columns([*Factors._fields, "id"]).with_format("torch")[:]
    except Exception as error:  # datasets and pyarrow raise errors of many kinds
        raise _unreadable(folder, error) from None
    factors = Factors(*(numbers[name] for name in Factors._fields))
    reader = ShardReader(table, torch.arange(len(table)), folder, config)
    return ImageSet(reader, factors, numbers["id"])
