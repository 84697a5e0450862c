from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from cgn.data.decoding import decode, to_pixels
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import TOGETHER, ImageSet
from cgn.data.preprocessing import IMAGENET, Preprocessing


def write(folder: Path, n: int, size: tuple[int, int] = (16, 16)) -> list[Path]:
    """Images of noise in PNG files, which keep every pixel."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for i in range(n):
        shape = (size[1], size[0], 3)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return paths


def labels(n: int) -> Factors:
    return Factors.aligned(torch.arange(n) % 3)


@pytest.fixture
def files(tmp_path: Path) -> ImageSet:
    return ImageSet(FileReader(write(tmp_path, 7), 16), labels(7), torch.arange(7))


@pytest.fixture
def in_memory(files: ImageSet) -> ImageSet:
    return ImageSet(files.pixels, files.factors, files.ids)


def test_files_and_memory_give_the_same_batches(files: ImageSet, in_memory: ImageSet) -> None:
    for ours, theirs in zip(files.batches(3), in_memory.batches(3), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1].shape, theirs[1].shape)


@pytest.mark.parametrize(
    "index",
    [slice(2, 5), torch.tensor([6, 0, 0]), torch.arange(7) > 4],
    ids=["span", "list", "mask"],
)
def test_files_are_chosen_like_tensors(
    index: Tensor | slice, files: ImageSet, in_memory: ImageSet
) -> None:
    assert torch.equal(files.select(index).pixels, in_memory.pixels[index])
    assert torch.equal(files.images(index), in_memory.images(index))
    assert torch.equal(files.select(index).ids, in_memory.ids[index])


def test_only_what_is_touched_is_decoded(files: ImageSet) -> None:
    files.paths[6].write_bytes(b"no image")
    assert len(files.images(slice(6))) == 6
    with pytest.raises(ValueError, match=r"6\.png cannot be read as an image"):
        files.images(slice(6, 7))


@dataclass(frozen=True, eq=False)
class Noting(FileReader):
    """Notes which images are read together, and when each first one begins to be."""

    reads: list[list[int]] = field(default_factory=list)
    begun: list[Event] = field(default_factory=lambda: [Event() for _ in range(7)])

    def read(self, index: Tensor | slice) -> Tensor:
        assert isinstance(index, Tensor)
        self.reads.append(index.tolist())
        self.begun[int(index[0]) % 7].set()
        return super().read(index)


def test_the_next_batches_are_read_while_another_device_uses_the_last_one(tmp_path: Path) -> None:
    reader = Noting(write(tmp_path, 7), 16)
    batches = ImageSet(reader, labels(7), torch.arange(7)).batches(1, device="meta")
    next(batches)
    assert reader.begun[1].wait(timeout=30)
    assert reader.begun[2].wait(timeout=30)
    assert not reader.begun[5].is_set()  # all at once would fill the memory
    assert len(list(batches)) == 6


def test_on_the_cpu_some_batches_are_read_at_once_and_not_all(tmp_path: Path) -> None:
    n = 2 * TOGETHER + 3
    reader = Noting(write(tmp_path, n), 16)
    batches = ImageSet(reader, labels(n), torch.arange(n)).batches(2)
    assert len(next(batches)[0]) == 2
    assert reader.reads == [list(range(2 * TOGETHER))]
    assert [len(batch) for batch, _ in batches] == [2] * TOGETHER + [1]
    assert [len(index) for index in reader.reads] == [2 * TOGETHER, 3]


def test_the_hash_follows_content_names_and_labels_and_not_the_folder(
    files: ImageSet, tmp_path: Path
) -> None:
    def sha256(paths: list[Path], factors: Factors) -> str:
        return ImageSet(FileReader(paths, 16), factors, torch.arange(7)).sha256()

    before = files.sha256()
    moved = tmp_path / "elsewhere" / tmp_path.name
    moved.mkdir(parents=True)
    assert sha256(write(moved, 7), labels(7)) == before
    assert files.prepared(Preprocessing(None, 8)).sha256() == before
    assert sha256(list(files.paths), Factors.aligned(torch.zeros(7, dtype=torch.int64))) != before
    Image.new("RGB", (16, 16)).save(files.paths[3])
    assert files.sha256() != before


def test_an_image_of_another_size_is_named(files: ImageSet) -> None:
    Image.new("RGB", (16, 20)).save(files.paths[2])
    with pytest.raises(ValueError, match=r"2\.png is 16 x 20 pixels, expected 16 x 16"):
        files.images()


def test_files_labels_and_ids_must_be_as_many(files: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"differ in number: \[6, 7\]"):
        ImageSet(FileReader(files.paths[:6], 16), files.factors, files.ids)


def test_images_of_any_size_and_mode_are_prepared_to_one(tmp_path: Path) -> None:
    paths = write(tmp_path, 1, (300, 500))
    Image.new("L", (640, 480), 9).save(tmp_path / "gray.png")
    Image.new("RGBA", (64, 48), (1, 2, 3, 4)).save(tmp_path / "small.png")
    paths += [tmp_path / "gray.png", tmp_path / "small.png"]
    images = ImageSet(FileReader(paths, 224, IMAGENET), labels(3), torch.arange(3))
    assert images.pixels.shape == (3, 3, 224, 224)
    assert images.pixels[1].unique().tolist() == [9]
    assert images.pixels[2, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preparing_is_torchvisions_to_a_level_of_255(interpolation: str, tmp_path: Path) -> None:
    from torchvision import transforms

    (path,) = write(tmp_path, 1, (90, 70))
    theirs = transforms.Compose(
        [
            transforms.Resize(40, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(32),
            transforms.PILToTensor(),
        ]
    )
    with Image.open(path) as image:
        ours = Preprocessing(40, 32, interpolation).apply(to_pixels(image))  # type: ignore[arg-type]
        apart = (ours.int() - theirs(image).int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 0.05


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 75}),
        ("RGB", {"quality": 95, "subsampling": 0}),
        ("RGB", {"progressive": True, "subsampling": 1}),
        ("L", {}),
        ("CMYK", {}),
    ],
    ids=["usual", "fine", "progressive", "gray", "cmyk"],
)
def test_jpeg_files_have_the_pixels_that_pillow_has(
    mode: str, options: dict[str, Any], tmp_path: Path
) -> None:
    (path,) = write(tmp_path, 1, (90, 70))
    with Image.open(path) as image:
        image.convert(mode).save(tmp_path / "some.jpg", **options)
    with Image.open(tmp_path / "some.jpg") as image:
        theirs = image.convert("RGB")
    assert torch.equal(decode((tmp_path / "some.jpg").read_bytes()), to_pixels(theirs))


def test_a_photograph_that_was_cut_short_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "short.jpg"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    files = ImageSet(FileReader([path], 64), labels(1), torch.arange(1))
    with pytest.raises(ValueError, match=r"short\.jpg cannot be read as an image: .*truncated"):
        files.images()


def test_squashing_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (120, 40))
    image.paste((255, 255, 255), (0, 0, 20, 40))
    image.paste((255, 255, 255), (100, 0, 120, 40))
    whole = Preprocessing(30, 30, squash=True).apply(to_pixels(image))
    assert whole.shape == (3, 30, 30)
    assert whole[:, :, 0].min() == whole[:, :, -1].min() == 255
    assert Preprocessing(30, 30).apply(to_pixels(image)).max() == 0


def test_an_image_smaller_than_the_crop_gets_a_black_border() -> None:
    found = Preprocessing(None, 8).apply(torch.full((3, 4, 4), 9, dtype=torch.uint8))
    assert found.shape == (3, 8, 8)
    assert (found[:, 2:6, 2:6] == 9).all()
    assert found.float().sum() == 3 * 4 * 4 * 9


def test_preparing_without_a_crop_is_refused(files: ImageSet) -> None:
    with pytest.raises(ValueError, match="cuts no square"):
        files.prepared(Preprocessing(16, None))


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="crop_px must be positive or None, got 0"):
        Preprocessing(None, 0)


def test_only_two_interpolations_are_known() -> None:
    with pytest.raises(ValueError, match="bilinear or bicubic, got 'nearest'"):
        Preprocessing(256, 224, "nearest")  # type: ignore[arg-type]
