"""What files say, held against dataclasses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.data.download import PINS, fetch
from benchmarks.records.predictions import load as load_predictions
from benchmarks.suites.backgrounds_challenge import Outcome, outcomes_kept
from benchmarks.suites.data_sets import DATA_SETS
from cgn.counterfactuals.sampling import find_weights
from cgn.counterfactuals.shards import MANIFEST, SetConfig, load_shards
from cgn.data.image_set import ImageSet
from cgn.io.schema import checked, parsed, read_json
from cgn.io.weights import save_tensors
from cgn.models.cgn import CGN, CGNConfig
from classifiers.checkpoints import load_classifier, load_ensemble


@dataclass(frozen=True)
class Part:
    size: int


@dataclass(frozen=True)
class Header:
    count: int
    rate: float = 0.5
    name: str = ""
    flag: bool = False
    kind: Literal["jpeg", "png"] = "jpeg"
    sizes: list[int] = field(default_factory=list)
    weights: tuple[float, float] | None = None
    parts: dict[str, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}")


def test_what_fits_comes_back_as_the_dataclass() -> None:
    said = {"count": 3, "rate": 1, "weights": [1, 2], "parts": {"a": {"size": 4}}}
    found = checked(Header, said, "a file")
    assert found == Header(3, 1.0, weights=(1.0, 2.0), parts={"a": Part(4)})
    assert checked(Header, json.loads(json.dumps(asdict(found))), "a file") == found


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "a file must be a mapping of names to values, it is a list"),
        ({}, "a file lacks count"),
        ({"count": "3"}, "a file: count must be a whole number, it is '3'"),
        ({"count": True}, "a file: count must be a whole number, it is True"),
        ({"count": 3.0}, "a file: count must be a whole number, it is 3.0"),
        ({"count": -1}, "a file: count must not be negative, got -1"),
        ({"count": 1, "rate": float("nan")}, "a file: rate must be a number, it is nan"),
        ({"count": 1, "rate": None}, "a file: rate must be a number, it is None"),
        ({"count": 1, "flag": 1}, "a file: flag must be true or false, it is 1"),
        ({"count": 1, "kind": "gif"}, "a file: kind must be one of jpeg, png, it is 'gif'"),
        ({"count": 1, "kind": []}, "a file: kind must be one of jpeg, png, it is a list"),
        ({"count": 1, "sizes": "12"}, "a file: sizes must be a list, it is '12'"),
        ({"count": 1, "sizes": [1, "2"]}, r"sizes\[1\] must be a whole number"),
        ({"count": 1, "weights": [1]}, "weights must be a list of 2"),
        ({"count": 1, "parts": {"a": {}}}, "'a' of parts lacks size"),
        ({"count": 1, "colour": "red"}, "a file: 'colour' is unknown here"),
        ({"count": 1, "\x1b[31m": 2}, r"'\\x1b\[31m' is unknown"),
        ({"count": 1, 5: 2}, "5 is unknown"),
    ],
)
def test_what_does_not_fit_is_one_sentence(said: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        checked(Header, said, "a file")
    assert str(error.value).isprintable()


def test_a_file_may_say_more_where_that_is_allowed() -> None:
    assert checked(Part, {"size": 1, "colour": "red"}, "a file", open_=True) == Part(1)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe", "[" * 200_000, "9" * 10_000])
def test_what_is_no_json_is_refused_by_the_name_of_its_file(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="here is no JSON"):
        parsed(text, "here")
    with pytest.raises(ValueError, match=r"nowhere.json cannot be read: No such file"):
        read_json(tmp_path / "nowhere.json")


BAD: list[Any] = [[], "text", 3, None, {}, {"odd": 1}, {"recipe": 3}, {"n": "many"}]


@pytest.mark.parametrize("said", BAD, ids=map(str, BAD))
@pytest.mark.parametrize("read", [CGN.load, load_ensemble, load_classifier])
@pytest.mark.parametrize("at", ["cgn", "ensemble", ""])
def test_no_header_of_weights_ends_in_anything_but_a_sentence(
    at: str, read: Callable[[Path], object], said: Any, tmp_path: Path
) -> None:
    header = {at: said} if at else said
    save_tensors(tmp_path / "a.safetensors", {"weight": torch.ones(2)}, header)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("odd", [{"n_classes": 10**9}, {"width": 10**6}, {"image_size_px": 2**20}])
def test_a_header_cannot_ask_for_more_memory_than_its_weights(
    odd: dict[str, int], tmp_path: Path
) -> None:
    config = CGNConfig(n_classes=2, image_size_px=16, width=8, noise_size=4, tile_px=16)
    path = tmp_path / "a.safetensors"
    save_tensors(path, CGN(config).state_dict(), {"cgn": asdict(config) | odd})
    with pytest.raises(ValueError, match=r"a\.safetensors: (weights and config|image_size_px)"):
        CGN.load(path)


@pytest.mark.parametrize("said", BAD, ids=map(str, BAD))
def test_a_folder_of_shards_with_an_odd_manifest_is_refused(said: Any, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"set\.json"):
        load_shards(tmp_path)


def test_a_manifest_of_before_the_config_was_hashed_is_read(tmp_path: Path) -> None:
    about = asdict(SetConfig(n=1)) | {"weights_sha256": "w"}
    (tmp_path / MANIFEST).write_text(json.dumps(about))
    with pytest.raises(ValueError, match="lacks 1 of 1 shards"):
        load_shards(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', '{"a": {"size_bytes": "3"}}'])
def test_odd_pins_are_refused_by_the_name_of_their_file(text: str, tmp_path: Path) -> None:
    (tmp_path / PINS).write_text(text)
    name = DATA_SETS["cue-conflict"].downloads[0].name
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"pins\.json"):
        fetch(DATA_SETS["cue-conflict"], tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '{"broken_by": "3", "prediction": 1, "confidence": 0.5, "tried": 16, "misled": 0}',
        '{"broken_by": -7, "prediction": 1, "confidence": 0.5, "tried": 16, "misled": 0}',
        '{"broken_by": 3, "prediction": 1, "confidence": NaN, "tried": 16, "misled": 0}',
        '{"broken_by": 3, "prediction": 1, "confidence": 0.5, "tried": 16}',
    ],
)
def test_an_odd_line_of_the_challenge_is_found_anew(line: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_text(f"{line}\n")
    fresh = Outcome(-1, 1, 0.5, 16, 0)
    assert list(outcomes_kept(path, lambda known: iter([fresh][len(known) :]))) == [fresh]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"suite": 3}'])
def test_predictions_with_an_odd_header_are_refused(
    text: str, tmp_path: Path, committed_results: Path
) -> None:
    results = committed_results / "predictions"
    table = pq.read_table(next(results.rglob("*.parquet")), partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"cgn-bench": text}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"the header of .*a\.parquet"):
        load_predictions(tmp_path / "a.parquet")


@pytest.mark.parametrize("config", [[], {"seed": "x"}, 3])
def test_weights_trained_with_odd_settings_are_refused(config: Any, tmp_path: Path) -> None:
    header = {"train_sha256": "t", "config": config}
    save_tensors(tmp_path / "tiny.safetensors", {"weight": torch.ones(2)}, header)
    with pytest.raises(ValueError, match="the header of"):
        find_weights("tiny", "t", tmp_path)


def test_an_image_set_whose_tensors_do_not_fit_together_is_refused(tmp_path: Path) -> None:
    parts = dict.fromkeys(("shape", "texture", "background", "ids"), torch.zeros(2))
    save_tensors(tmp_path / "a.safetensors", parts | {"pixels": torch.zeros(3)}, {})
    with pytest.raises(ValueError, match=r"a\.safetensors holds no image set: pixels must be"):
        ImageSet.load(tmp_path / "a.safetensors")
