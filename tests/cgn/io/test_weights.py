"""Files that are no weights, or bad ones: each refused in one line that says what it is."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cgn.io.weights import read_checkpoint, read_safetensors, read_state
from classifiers import load_model

ARCH = "timm:test_resnet"


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(timm.create_model("test_resnet", num_classes=7).state_dict())


def stored(folder: Path, what: object) -> str:
    """Write a file of weights; its spec."""
    torch.save(what, folder / "mine.pth")
    return f"file:{folder / 'mine.pth'}#arch={ARCH}"


BAD = {
    "a web page": (b"<!DOCTYPE html>\n<html>\x1b[31m", "is a web page; download the file itself"),
    "a Git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n",
        "is a Git-LFS pointer, not the file that it stands for; run `git lfs pull`",
    ),
    "nothing": (b"", "is empty; copy or download it again"),
    "JSON": (b'{"weight_map": {}}', "is a JSON text"),
    "gzip": (b"\x1f\x8b\x08\x00", "is compressed with gzip; unpack it first"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "noise": (bytes(range(1, 256)) * 9, "is no file of weights, or a damaged one"),
}


def refused(spec: str) -> str:
    """Why a file is refused: one line, in plain characters, that names the file."""
    with pytest.raises(ValueError, match=r"mine\.pth") as error:
        load_model(spec)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 400
    assert not any(word in text for word in ("weights_only", "safe_globals", "trust"))
    return text


@pytest.mark.parametrize("what", BAD)
def test_a_file_of_something_else_is_called_what_it_is(what: str, tmp_path: Path) -> None:
    content, message = BAD[what]
    (tmp_path / "mine.pth").write_bytes(content)
    assert message in refused(f"file:{tmp_path / 'mine.pth'}#arch={ARCH}")


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.ones(3), "numpy"),
        (Path("somewhere"), "pathlib"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_more_than_weights_is_refused_with_what_to_save(
    extra: object, named: str, zipped: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoint = {"args": extra, "state_dict": state}
    path = tmp_path / "mine.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    text = refused(f"file:{path}#arch={ARCH}")
    assert f"holds more than weights ({named}" in text
    assert text.endswith("save the weights alone: torch.save(model.state_dict(), 'weights.pth')")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("kind", ["zipped", "older", "safetensors"])
def test_a_file_that_is_cut_short_is_said_to_be(
    kind: str, share: float, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zipped")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    text = refused(f"file:{path}#arch={ARCH}")
    assert any(each in text for each in ("is cut short", "is empty", "is no file of weights"))
    if share >= 0.3:
        assert "is cut short; copy or download it again" in text


def test_a_program_of_torchscript_is_called_one(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning):
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "mine.pth"))
    assert "TorchScript" in refused(f"file:{tmp_path / 'mine.pth'}#arch={ARCH}")


def test_a_pickle_of_a_newer_protocol_gives_no_warning(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(pickle.dumps({"weight": 1}, protocol=5))
    refused(f"file:{tmp_path / 'mine.pth'}#arch={ARCH}")


@pytest.mark.parametrize("name", ["fc.weight", "conv1.0.weight", "beside"])
def test_a_tensor_that_repeats_its_storage_is_refused_at_once(
    name: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    huge = torch.zeros(1).expand(2_000_000_000)
    text = refused(stored(tmp_path, state | {name: huge}))
    assert f"{name} claims" in text
    assert "claims 2,000,000,000 values of which the file has fewer" in text


def test_a_tensor_without_values_of_a_huge_size_is_refused_at_once(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    empty = torch.zeros(2_000_000_000, 0)
    assert "fc.weight is of (2000000000, 0)" in refused(
        stored(tmp_path, state | {"fc.weight": empty})
    )


def test_safetensors_that_repeat_their_storage_are_refused(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [2_000_000_000], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "mine.pth").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert "is no file of weights, or a damaged one" in refused(
        f"file:{tmp_path / 'mine.pth'}#arch={ARCH}"
    )


def test_an_archive_that_unpacks_to_more_than_it_holds_is_not_unpacked(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine/data.pkl", bytes(10_000_000))
    assert "claims to hold more bytes than it has" in refused(f"file:{path}#arch={ARCH}")


@pytest.mark.parametrize("tensor", [torch.ones(3).to_sparse(), torch.empty(3, device="meta")])
def test_a_tensor_of_another_kind_is_refused(
    tensor: Tensor, state: dict[str, Tensor], tmp_path: Path
) -> None:
    assert "is sparse, quantised or without values" in refused(
        stored(tmp_path, state | {"odd": tensor})
    )


def test_names_in_a_file_cannot_write_on_the_terminal(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    assert "\\x1b[31m" in refused(stored(tmp_path, state | {"\x1b[31mred": torch.ones(1)}))


def test_a_checkpoint_of_something_else_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match=r"mine.pth is no checkpoint .* it lacks adam; delete it"):
        read_checkpoint(tmp_path / "mine.pth", ("step", "adam"))
    (tmp_path / "mine.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"is cut short; .*; or, as it is a checkpoint, delete it"):
        read_checkpoint(tmp_path / "mine.pth", ())


@pytest.mark.parametrize("header", ["[]", "{", "[" * 100_000, "1" * 10_000])
def test_a_header_that_is_no_json_mapping_is_refused(header: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "mine.safetensors", {"json": header})
    with pytest.raises(ValueError, match=r"the header of .*mine.safetensors is no (JSON|mapping)"):
        read_safetensors(tmp_path / "mine.safetensors")


def test_a_zip_that_claims_to_span_several_disks_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"a": torch.zeros(3)}, path)
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)  # of zip64, on two disks
    path.write_bytes(content[:end] + locator + content[end:])
    with pytest.raises(ValueError, match=r"mine\.pth is cut short; copy or download it again"):
        read_state(path)
