from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import SHARED, golden
from torch import Tensor, nn

from benchmarks import score
from benchmarks.core.evaluate import evaluate, score_suite
from benchmarks.core.suite import DataSource
from benchmarks.data.class_folders import list_classes
from benchmarks.suites import OFFICIAL_SUITES, SUITES
from benchmarks.suites.cue_conflict import official_variants as cue_conflict_variants
from benchmarks.suites.decisions import decide_cue_conflict, decide_imagenet_a, decide_in9
from benchmarks.suites.imagenet9 import IN9_VARIANTS
from benchmarks.suites.imagenet9 import official_variants as in9_variants
from benchmarks.worlds.imagenet import class_table, classes_of

CLASSES = ["bird", "cat", "dog"]
IN9_CLASSES = [
    "00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore", "05_insect",
    "06_musical instrument", "07_primate", "08_fish",
]  # fmt: skip


def touch(folder: Path, names: Sequence[str], size: int = 224) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (size, size)).save(folder / name)


@pytest.fixture
def in9(tmp_path: Path) -> Path:
    """An ImageNet-9 of two foregrounds a class."""
    for variant in IN9_VARIANTS:
        for label, name in enumerate(IN9_CLASSES):
            wnid = f"n0000000{label}"
            bg = f"_bg_0{(label + 2) % 9}_x_n1_5" if variant == "mixed_rand" else ""
            names = [f"{wnid}_{i}{bg}.JPEG" for i in (1, 10)]
            touch(tmp_path / "bg_challenge" / variant / "val" / name, names)
    return tmp_path


def one_hot(*chosen: int) -> Tensor:
    return 10 * torch.nn.functional.one_hot(torch.tensor(chosen), 1_000).double()


def test_the_map_to_nine_classes_has_the_published_counts() -> None:
    counts = class_table()["in9"].value_counts()
    assert classes_of("in9") == IN9_CLASSES
    assert [counts[name] for name in IN9_CLASSES] == [116, 52, 42, 36, 35, 27, 26, 20, 16]
    assert counts[""] == 630


def test_the_map_to_sixteen_classes_has_the_published_counts() -> None:
    counts = class_table()["cue_conflict"].value_counts().to_dict()
    assert counts.pop("") == 1_000 - 207
    assert counts == {
        "airplane": 1, "bear": 4, "bicycle": 2, "bird": 49, "boat": 5, "bottle": 7, "car": 3,
        "cat": 6, "chair": 4, "clock": 3, "dog": 109, "elephant": 2, "keyboard": 2, "knife": 1,
        "oven": 1, "truck": 8,
    }  # fmt: skip


def test_the_outputs_of_imagenet_a_are_the_published_ones() -> None:
    table = class_table()
    indices = ",".join(map(str, table.index[table["imagenet_a"]]))
    assert hashlib.sha256(indices.encode()).hexdigest().startswith("973e8c3e530bf5db")
    # Where suites overlap, and how outputs are ordered.
    assert (table["imagenet_a"] & (table["in9"] != "")).sum() == 75
    assert table["wnid"].is_monotonic_increasing


def test_an_output_of_no_class_is_an_answer_and_always_wrong() -> None:
    found = decide_in9(one_hot(151, 171, 389, 999)).argmax(dim=1)
    assert found.tolist() == [0, 9, 8, 9]  # 171 is a dog, but not in the map


def test_a_class_is_as_probable_as_its_outputs_on_average() -> None:
    logits = torch.zeros(1, 1_000).double()
    logits[0, 152:155] = 3.0  # three dogs of 109
    logits[0, 766] = 1.0  # the only oven
    classes = classes_of("cue_conflict")
    assert classes[int(decide_cue_conflict(logits).argmax())] == "oven"
    logits[0, 766] = -5.0
    assert classes[int(decide_cue_conflict(logits).argmax())] == "dog"


def test_only_the_200_outputs_of_imagenet_a_take_part() -> None:
    logits = one_hot(0)  # a tench, which is not among them
    logits[0, 6] = 1.0  # a stingray, the first that is
    found = decide_imagenet_a(logits)
    assert found.shape == (1, 200)
    assert found.argmax() == 0


def test_files_of_imagenet_9_are_found_with_their_labels(in9: Path) -> None:
    sets = in9_variants(DataSource(folder=in9))
    assert list(sets) == list(IN9_VARIANTS)
    assert len(IN9_VARIANTS) == 8
    assert sets["original"].factors.shape.tolist() == sorted([*range(9)] * 2)
    assert sets["mixed_next"].factors.background[:4].tolist() == [1, 1, 2, 2]
    assert sets["mixed_rand"].factors.background[:4].tolist() == [2, 2, 3, 3]
    assert sets["only_fg"].factors.background.unique().tolist() == [-1]
    assert sets["no_fg"].factors.texture.unique().tolist() == [-1]
    inner = in9_variants(DataSource(folder=in9 / "bg_challenge"))
    assert inner["original"].sha256() == sets["original"].sha256()


def test_one_foreground_has_one_id_in_all_variants(in9: Path) -> None:
    sets = in9_variants(DataSource(folder=in9))
    for images in sets.values():
        assert sorted(images.ids.tolist()) == [*range(18)]
    # By name 1 comes before 10; with a background behind it, 10_bg before 1_bg.
    assert sets["mixed_rand"].ids[:2].tolist() == sets["original"].ids[:2].flip(0).tolist()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("missing", r"has no class folder '03_reptile' \(1 such\); unpack the archive again"),
        ("empty", "03_reptile has no image, it holds nothing; unpack"),
        ("odd", r"has a folder of no class: '09_cat' \(1 such\); move it away, or unpack"),
        ("variant", "there is no folder .*mixed_next/val; .* holds 'mixed_rand', .* and 4 more"),
        ("name", "x.JPEG does not begin with an ImageNet wnid"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(spoil: str, message: str, in9: Path) -> None:
    val = in9 / "bg_challenge" / "mixed_next" / "val"
    reptile = val / "03_reptile"
    if spoil in ("missing", "empty"):
        for path in reptile.iterdir():
            path.unlink()
    if spoil == "missing":
        reptile.rmdir()
    if spoil == "odd":
        (val / "09_cat").mkdir()
    if spoil == "variant":
        val.parent.rename(in9 / "elsewhere")
    if spoil == "name":
        touch(reptile, ["x.JPEG"])
    with pytest.raises(ValueError, match=message):
        in9_variants(DataSource(folder=in9))


def test_a_webp_among_pngs_counts_and_what_is_not_read_is_said(
    in9: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reptile = in9 / "bg_challenge" / "mixed_next" / "val" / "03_reptile"
    touch(reptile, ["n00000003_2.webp", "n00000003_3.TIF", ".n00000003_4.JPEG"])
    (reptile / "notes.txt").touch()
    (reptile.parent / ".ipynb_checkpoints").mkdir()
    images = in9_variants(DataSource(folder=in9))["mixed_next"]
    assert len(images) == 20
    assert "1 files or folders in it are not read, such as '03_reptile/notes.txt'" in caplog.text
    touch(reptile, ["n00000003_1.png"])
    with pytest.raises(ValueError, match=r"'n00000003_1\.JPEG' and 'n00000003_1\.png', which"):
        in9_variants(DataSource(folder=in9))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ILSVRC2012_val_00000001.JPEG"], "`bench.py data imagenet --folder DATA` sorts them"),
        (["zoo/" + name for name in CLASSES], "holds the class folders in 'zoo'"),
        (["0/", "1/", "2/"], r"no class folder 'bird', nor any of the other 2; it holds '0', '1'"),
        (
            ["Bird/", "cat/", "dog/"],
            r"no class folder 'bird' .1 such. and has a folder of no class",
        ),
        ([], r"it holds nothing; unpack the archive again"),
    ],
)
def test_an_odd_folder_is_told_what_is_there_what_is_missing_and_what_to_do(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        path = tmp_path / name
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
    with pytest.raises(ValueError, match=message):
        list_classes(tmp_path, CLASSES)


def test_the_scores_of_known_answers_are_known(in9: Path) -> None:
    class Birds(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return one_hot(7).expand(len(images), -1)

    suite = OFFICIAL_SUITES["in9"]
    variants = suite.variants(DataSource(folder=in9))
    assert suite.decision_rule is not None
    seen, _ = evaluate(Birds(), variants, n_classes=1_000, decision_rule=suite.decision_rule)
    estimates = {score.key: value for score, value in score_suite(suite, seen).items()}
    assert estimates["mixed_rand_accuracy"].value == pytest.approx(1 / 9)
    assert estimates["mixed_same-mixed_rand_bg_gap"].value == 0


def test_stimuli_are_told_apart_by_whether_their_cues_agree(tmp_path: Path) -> None:
    for name in classes_of("cue_conflict"):
        touch(tmp_path / name, [f"{name}1-{name}2.png", f"{name}1-cat3.png"])
    sets = cue_conflict_variants(DataSource(folder=tmp_path))
    assert {name: len(images) for name, images in sets.items()} == {"conflict": 15, "agree": 17}
    conflict = sets["conflict"].factors
    assert (conflict.shape != conflict.texture).all()
    assert conflict.texture.unique().tolist() == [classes_of("cue_conflict").index("cat")]
    touch(tmp_path / "cat", ["dog1-cat1.png"])
    with pytest.raises(ValueError, match=r"dog1-cat1\.png is not called as a stimulus"):
        cue_conflict_variants(DataSource(folder=tmp_path))


class Cats(nn.Module):
    """Takes everything for a cat."""

    def forward(self, images: Tensor) -> Tensor:
        cat = list(class_table()["cue_conflict"]).index("cat")
        return one_hot(cat).expand(len(images), -1)


def test_without_agreeing_stimuli_their_score_alone_is_undefined(tmp_path: Path) -> None:
    suite, source = OFFICIAL_SUITES["cue-conflict"], DataSource(folder=tmp_path)
    for name in classes_of("cue_conflict"):
        touch(tmp_path / name, [f"{name}1-{'dog' if name == 'cat' else 'cat'}2.png"])
    table = score(Cats(), suite, data=source).to_frame().set_index("score")
    assert table.loc["conflict_shape_accuracy", "value"] == 1 / 16
    assert table.loc["conflict_texture_accuracy", "value"] == 15 / 16
    assert table.loc["conflict_shape_bias", "value"] == 1 / 16
    assert table.loc["agree_accuracy", ["value", "low", "high"]].isna().all()
    assert table.loc["agree_accuracy", "n"] == 0
    for path in tmp_path.glob("*/*.png"):
        path.rename(path.with_name(f"{path.parent.name}1-{path.parent.name}2.png"))
    table = score(Cats(), suite, data=source).to_frame().set_index("score")
    assert table.loc["agree_accuracy", "value"] == 1 / 16
    assert table["value"].isna().sum() == 4


@pytest.mark.parametrize(
    ("network", "by_shape", "by_texture"), [("resnet50", 162, 572), ("resnet101", 180, 509)]
)
def test_published_decisions_give_the_published_shape_bias(
    network: str, by_shape: int, by_texture: int
) -> None:
    seen = golden(network)
    agrees = seen["shape"] == seen["texture"]
    seen["variant"] = agrees.map({True: "agree", False: "conflict"})
    estimates = {s.key: e for s, e in score_suite(OFFICIAL_SUITES["cue-conflict"], seen).items()}
    bias = estimates["conflict_shape_bias"]
    assert bias.n == by_shape + by_texture
    assert bias.value == pytest.approx(by_shape / bias.n)
    assert (
        estimates["conflict_shape_accuracy"].n
        == OFFICIAL_SUITES["cue-conflict"].n_images["conflict"]
    )


@pytest.mark.parametrize("name", OFFICIAL_SUITES)
def test_an_official_edition_asks_what_the_embedded_one_asks_under_another_protocol(
    name: str,
) -> None:
    suite = OFFICIAL_SUITES[name]
    assert not suite.embedded
    assert {score.variant for score in suite.scores if "-" not in score.variant} <= {
        *suite.n_images
    }
    if name in SUITES:
        assert suite.question == SUITES[name].question
        assert suite.primary == SUITES[name].primary
        assert suite.protocol != SUITES[name].protocol
    with pytest.raises(ValueError, match="need a folder"):
        suite.variants(DataSource())
    with pytest.raises(ValueError, match="for pretrained networks"):
        suite.world.train(DataSource())


@pytest.mark.shared("in9-sample", "cue-conflict", "imagenet-sample")
@pytest.mark.parametrize(
    ("name", "folder", "n"),
    [
        ("in9", "in9-sample", 310),
        ("cue-conflict", "cue-conflict", 306),
        ("imagenet", "imagenet-sample", 1_000),
    ],
)
def test_real_files_are_found(name: str, folder: str, n: int) -> None:
    suite = OFFICIAL_SUITES[name]
    sets = suite.variants(DataSource(folder=SHARED / folder))
    first = next(iter(sets.values()))
    assert len(first) == n
    assert first.images(slice(2)).shape == (2, 3, 224, 224)
