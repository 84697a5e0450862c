"""Rendered sets on disk, with tiny suites that count how often they are drawn."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from support import tiny_suite

from benchmarks.core.suite import EMBEDDED, DataSource, Suite
from benchmarks.data import rendered
from benchmarks.data.rendered import training_cached, variants_cached
from cgn.data.image_set import ImageSet


@pytest.fixture
def draws() -> list[str]:
    """The names of the sets that were really drawn."""
    return []


@pytest.fixture
def counting(draws: list[str]) -> Suite:
    return counted(tiny_suite(), draws)


def counted(suite: Suite, draws: list[str]) -> Suite:
    """Note in `draws` whenever the suite or its world draws."""

    def variants(source: DataSource) -> dict[str, ImageSet]:
        draws.append(f"{suite.name} variants")
        return suite.variants(source)

    def train(source: DataSource) -> ImageSet:
        draws.append("train")
        return suite.world.train(source)

    def unbiased(source: DataSource) -> ImageSet:
        draws.append("unbiased")
        return suite.world.unbiased(source)

    world = replace(suite.world, train=train, unbiased=unbiased)
    return replace(suite, variants=variants, world=world)


def same(one: ImageSet, other: ImageSet) -> bool:
    return one.sha256() == other.sha256() and torch.equal(one.ids, other.ids)


def test_the_second_call_opens_the_variants_that_the_first_has_drawn(
    counting: Suite, draws: list[str], tmp_path: Path
) -> None:
    fresh = tiny_suite().variants(EMBEDDED)
    for _ in range(2):
        kept = variants_cached(counting, EMBEDDED, tmp_path)
        assert list(kept) == list(fresh)
        assert all(same(kept[name], fresh[name]) for name in fresh)
    assert draws == ["tiny variants"]


def test_every_set_has_a_file_of_its_own(draws: list[str], tmp_path: Path) -> None:
    one, other = (counted(tiny_suite(name), draws) for name in ("one", "other"))
    for _ in range(2):
        for suite in (one, other):
            variants_cached(suite, EMBEDDED, tmp_path)
        train = training_cached(one.world, "train", EMBEDDED, tmp_path)
        unbiased = training_cached(one.world, "unbiased", EMBEDDED, tmp_path)
        assert same(train, tiny_suite().world.train(EMBEDDED))
        assert same(unbiased, tiny_suite().world.unbiased(EMBEDDED))
    assert draws == ["one variants", "other variants", "train", "unbiased"]
    assert len(list(tmp_path.iterdir())) == 4


def test_worlds_and_suites_of_one_name_do_not_share_a_file(counting: Suite, tmp_path: Path) -> None:
    world = replace(counting.world, name=counting.name)
    variants_cached(counting, EMBEDDED, tmp_path)
    assert same(
        training_cached(world, "train", EMBEDDED, tmp_path), tiny_suite().world.train(EMBEDDED)
    )


@pytest.mark.parametrize("kind", ["folder", "textures"])
def test_data_of_the_users_own_is_read_each_time(
    kind: str, counting: Suite, draws: list[str], tmp_path: Path
) -> None:
    (tmp_path / "images.txt").touch()
    source = DataSource(**{kind: tmp_path})  # type: ignore[arg-type]
    for _ in range(2):
        variants_cached(counting, source, tmp_path / "cache")
        training_cached(counting.world, "train", source, tmp_path / "cache")
    assert draws == ["tiny variants", "train"] * 2
    assert not (tmp_path / "cache").exists()


def test_each_correlation_has_a_training_set_of_its_own_and_no_test_set(
    counting: Suite, draws: list[str], tmp_path: Path
) -> None:
    for correlation in (1.0, 0.99, 0.9, 0.99):
        source = DataSource(correlation=correlation)
        training_cached(counting.world, "train", source, tmp_path)
        training_cached(counting.world, "unbiased", source, tmp_path)
        variants_cached(counting, source, tmp_path)
    assert draws == ["train", "unbiased", "tiny variants", "train", "train"]


def test_a_suites_test_images_are_drawn_without_a_correlation(tmp_path: Path) -> None:
    asked: list[DataSource] = []

    def variants(source: DataSource) -> dict[str, ImageSet]:
        asked.append(source)
        return tiny_suite().variants(source)

    suite = replace(tiny_suite(), variants=variants)
    variants_cached(suite, DataSource(correlation=0.9), tmp_path)
    assert asked == [EMBEDDED]


def test_changed_code_draws_anew(
    counting: Suite, draws: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code.py"
    monkeypatch.setattr(rendered, "CODE", (code,))
    for text in ("one", "other", "one"):
        code.write_text(text)
        variants_cached(counting, EMBEDDED, tmp_path / "cache")
    assert draws == ["tiny variants"] * 2


def test_all_code_that_draws_is_in_the_key() -> None:
    names = {path.name for path in rendered.CODE}
    assert {"openmoji.py", "textures.py", "mnists.py", "imagenet9.py", "image_set.py"} <= names
    assert any(path.match("cgn/models/cgn.py") for path in rendered.CODE)


@pytest.mark.parametrize("package", rendered.PACKAGES)
def test_another_version_of_a_package_draws_anew(
    package: str, counting: Suite, draws: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants_cached(counting, EMBEDDED, tmp_path)
    versions = {name: version(name) for name in rendered.PACKAGES} | {package: "0.0"}
    monkeypatch.setattr(rendered, "version", versions.__getitem__)
    variants_cached(counting, EMBEDDED, tmp_path)
    assert draws == ["tiny variants"] * 2


def test_a_cut_file_is_drawn_anew(counting: Suite, draws: list[str], tmp_path: Path) -> None:
    variants_cached(counting, EMBEDDED, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    variants_cached(counting, EMBEDDED, tmp_path)
    assert path.read_bytes() == whole
    assert draws == ["tiny variants"] * 2
