from __future__ import annotations

import hashlib
import io
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from imagenet_networks import tiny_cgn
from PIL import Image
from pyarrow import parquet

from cgn.counterfactuals.sampling import best_classes, choose_classes
from cgn.counterfactuals.shards import SetConfig, generate, load_shards, shard_seed
from cgn.counterfactuals.sheets import sheet
from cgn.data.factors import Factors
from cgn.data.image_files import load_authors_folder
from cgn.data.image_set import to_bytes
from cgn.device.distributed import ProcessGroup
from cgn.models.imagenet.cgn import ImageNetCGN, truncated_noise

CONFIG = SetConfig(n=7, shard_size=3, image_format="png")


@pytest.fixture(scope="module")
def cgn() -> ImageNetCGN:
    return tiny_cgn()[0].eval()


@pytest.fixture(scope="module")
def folder(cgn: ImageNetCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "set"
    generate(cgn, CONFIG, path, dtype=torch.float32, batch_size=2)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_read_back_as_it_was_drawn(cgn: ImageNetCGN, folder: Path, tmp_path: Path) -> None:
    images = load_shards(folder, tmp_path)
    assert len(images) == 7
    assert images.ids.tolist() == list(range(7))
    second = torch.Generator().manual_seed(shard_seed(0, 1))
    factors = choose_classes("random", 3, 5, second)
    noise = truncated_noise(3, 4, second, 0.5)
    fast = cgn.for_sampling(torch.float32)
    expected = to_bytes(fast.draw(noise, factors, 0.5).image())
    found = images.select(torch.tensor([3, 4, 5]))
    assert torch.equal(torch.stack(list(found.factors)), torch.stack(list(factors)))
    assert (found.pixels.int() - expected.int()).abs().max() <= 1
    assert torch.equal(images.read(torch.tensor([5, 3])), found.pixels[[2, 0]])


def test_a_set_is_an_image_set_whose_hash_follows_its_content(folder: Path, tmp_path: Path) -> None:
    images = load_shards(folder, tmp_path)
    batches = list(images.batches(4))
    assert [len(x) for x, _ in batches] == [4, 3]
    assert torch.equal(torch.cat([x for x, _ in batches]), images.images())
    assert images.sha256() == load_shards(folder, tmp_path).sha256()
    assert images.sha256() != images.select(torch.arange(6)).sha256()


def test_the_datasets_library_reads_images_labels_seed_and_hash(
    folder: Path, tmp_path: Path
) -> None:
    files = [str(path) for path in sorted(folder.glob("*.parquet"))]
    table = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path))
    row = table[4]
    assert row["image"].size == (16, 16)
    assert row["seed"] == shard_seed(0, 1)
    assert {row[name] in range(5) for name in Factors._fields} == {True}
    raw = table.cast_column("image", datasets.Image(decode=False))[4]
    assert hashlib.sha256(raw["image"]["bytes"]).hexdigest() == row["sha256"]
    assert Image.open(io.BytesIO(raw["image"]["bytes"])).format == "PNG"


def test_no_image_is_there_twice(folder: Path, tmp_path: Path) -> None:
    pixels = load_shards(folder, tmp_path).pixels
    assert len(pixels.unique(dim=0)) == 7


def test_what_is_missing_is_drawn_again_and_nothing_else(
    cgn: ImageNetCGN, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    generate(cgn, CONFIG, copy, dtype=torch.float32, batch_size=2)
    (copy / CONFIG.shard_name(1)).unlink()
    (copy / f"{CONFIG.shard_name(1)}.part").write_bytes(b"interrupted")
    (copy / CONFIG.shard_name(0)).write_bytes(b"left alone")
    with pytest.raises(ValueError, match="lacks 1 of 3 shards, counterfactuals-00001-of-00003"):
        load_shards(copy)
    generate(cgn, CONFIG, copy, dtype=torch.float32, batch_size=2)
    assert contents(copy)[CONFIG.shard_name(1)] == contents(folder)[CONFIG.shard_name(1)]
    assert contents(copy)[CONFIG.shard_name(0)] == b"left alone"


def test_several_processes_write_each_shard_once(
    cgn: ImageNetCGN, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessGroup, "barrier", lambda self: None)
    written: list[set[str]] = []
    for rank in range(2):
        before = {path.name for path in tmp_path.glob("*.parquet")}
        team = ProcessGroup(rank, 2)
        generate(cgn, CONFIG, tmp_path, dtype=torch.float32, batch_size=2, team=team)
        written.append({path.name for path in tmp_path.glob("*.parquet")} - before)
    assert [len(names) for names in written] == [2, 1]
    assert contents(tmp_path) == contents(folder)


@pytest.mark.parametrize("other", [{"seed": 1}, {"n": 8}, {"truncation": 1.0}])
def test_a_folder_with_another_set_is_refused(
    cgn: ImageNetCGN, folder: Path, other: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"holds another set: it differs in {next(iter(other))}"):
        generate(cgn, replace(CONFIG, **other), folder)  # type: ignore[arg-type]


def test_other_weights_do_not_add_to_a_set(folder: Path) -> None:
    with pytest.raises(ValueError, match="differs in weights_sha256"):
        generate(tiny_cgn(seed=1)[0], CONFIG, folder)


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no set\.json"):
        load_shards(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n": 0}, "must be positive"),
        ({"truncation": 1.5}, r"must lie in \(0, 1\]"),
        ({"image_format": "gif"}, "must be jpeg or png"),
    ],
)
def test_settings_without_sense_are_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **bad)  # type: ignore[arg-type]


def test_nothing_but_three_mechanisms_and_one_mask_is_computed(
    cgn: ImageNetCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watched(self: ImageNetCGN, *_: object, **__: object) -> ImageNetCGN:
        for name, network in self.named_children():
            network.register_forward_hook(lambda *_, name=name: calls.append(name))
        return self

    monkeypatch.setattr(ImageNetCGN, "for_sampling", watched)
    generate(tiny_cgn()[0].eval(), SetConfig(n=1), tmp_path)
    assert sorted(calls) == ["background", "saliency", "shape", "texture"]


def test_classes_are_drawn_from_all_from_the_best_or_are_given() -> None:
    generator = torch.Generator().manual_seed(0)
    lists = best_classes()
    assert [len(each) for each in lists] == [76, 75, 38]
    best = choose_classes("best", 200, 1000, generator)
    for found, known in zip(best, lists, strict=True):
        assert set(found.tolist()) <= set(known.tolist())
    fixed = choose_classes("3,0,1", 2, 5, generator)
    assert [each.tolist() for each in fixed] == [[3, 3], [0, 0], [1, 1]]
    spread = choose_classes("random", 500, 5, generator)
    assert not torch.equal(spread.shape, spread.texture)
    assert [len(each.unique()) for each in spread] == [5, 5, 5]


@pytest.mark.parametrize("bad", ["worst", "1,2", "1,2,3,4", "1,2,5", "1,,2", "-1,2,3"])
def test_unknown_classes_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="classes are random, best, or SHAPE,TEXTURE,BACKGROUND"):
        choose_classes(bad, 1, 5, torch.Generator())


def test_the_best_classes_are_for_imagenet_alone() -> None:
    with pytest.raises(ValueError, match="the best classes are ImageNet's; this CGN has 5 others"):
        choose_classes("best", 1, 5, torch.Generator())


def test_a_sheet_has_a_row_for_each_chosen_class(cgn: ImageNetCGN, tmp_path: Path) -> None:
    sheet(cgn, tmp_path / "sheet.png", n_per_class=1, classes=(4, 0))
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (5 * 18, 2 * 17 + 1)


def authors_set(folder: Path, n: int = 3) -> Path:
    """Files as the original code writes them."""
    (folder / "ims").mkdir(parents=True)
    lines = [",im_name,shape_cls,texture_cls,bg_cls"]
    for i in range(n):
        name = f"run_{i:07}"
        Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(folder / "ims" / f"{name}_x_gen.jpg")
        lines.append(f",{name},{i},{i + 10},{i + 20}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_counterfactuals_of_the_original_code_are_read_with_their_labels(tmp_path: Path) -> None:
    images = load_authors_folder(authors_set(tmp_path / "set"))
    assert [each.tolist() for each in images.factors] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert images.pixels.shape == (3, 3, 16, 16)
    assert images.pixels[2, 0].float().mean() == pytest.approx(80, abs=3)


def test_a_folder_that_the_original_code_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no labels\.csv"):
        load_authors_folder(tmp_path)
    folder = authors_set(tmp_path / "set")
    (folder / "ims" / "run_0000001_x_gen.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 images, run_0000001_x_gen\.jpg first"):
        load_authors_folder(folder)
    with (folder / "labels.csv").open("a", encoding="utf-8") as file:
        file.write(",run_0000003,a,b,c\n")
    with pytest.raises(ValueError, match="has a row that is not ,NAME,SHAPE,TEXTURE,BACKGROUND"):
        load_authors_folder(folder)
    (folder / "labels.csv").write_text(",im_name,shape_cls,texture_cls,bg_cls\n", encoding="utf-8")
    with pytest.raises(ValueError, match="names no images"):
        load_authors_folder(folder)


def test_damaged_shards_and_images_of_another_size_are_named(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "a, b #1 [x]"
    shutil.copytree(folder, place)
    assert len(load_shards(place, tmp_path / "cache")) == 7
    path = place / CONFIG.shard_name(1)
    table = parquet.read_table(path)
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    images = table["image"].to_pylist()
    images[1]["bytes"] = file.getvalue()
    column = pa.array(images, table.schema.field("image").type)
    parquet.write_table(table.set_column(0, table.schema.field("image"), column), path)
    with pytest.raises(
        ValueError, match=r"image 4, in .*00001-of-00003.parquet, has \(9, 9\) pixels, others \(16"
    ):
        load_shards(place, tmp_path / "cache2").read(slice(None))
    images[1]["bytes"] = b"<html>"
    column = pa.array(images, table.schema.field("image").type)
    parquet.write_table(table.set_column(0, table.schema.field("image"), column), path)
    with pytest.raises(ValueError, match=r"image 4, in .*00001-of-00003.parquet, cannot be"):
        load_shards(place, tmp_path / "cache3").read(slice(None))
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"the shards of .* cannot be read: .* delete those"):
        load_shards(place, tmp_path / "cache4")


def test_a_text_that_is_no_text_is_refused_where_it_is_read(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "set"
    shutil.copytree(folder, place)
    path = place / CONFIG.shard_name(1)
    table = parquet.read_table(path)
    odd = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    damaged = table.set_column(table.schema.get_field_index("sha256"), "sha256", odd)
    parquet.write_table(damaged, path)
    images = load_shards(place, tmp_path / "cache")
    assert images.read(slice(None)).equal(load_shards(folder, tmp_path / "whole").read(slice(None)))
    with pytest.raises(ValueError, match=r"the shards of .* cannot be read: .* delete those"):
        images.sha256()
