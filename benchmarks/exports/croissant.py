"""Embedded test images as a Parquet file, with Croissant 1.1 metadata and its RAI fields.

Source:
    MLCommons, Croissant Format Specification 1.1, 2026, and Croissant RAI 1.0, 2024.
    https://docs.mlcommons.org/croissant/
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from benchmarks.core.suite import Suite, TestSet
from cgn.data.image_set import ImageSet
from cgn.io.writing import file_sha256, write_text, written

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
IMAGES = "images.parquet"
FIELDS = {
    "image": ("https://schema.org/ImageObject", "The image, as PNG."),
    "variant": ("https://schema.org/Text", "The test set that the image is of."),
    "id": (
        "https://schema.org/Integer",
        "The object that the image shows; images of one object share it.",
    ),
    "shape": ("https://schema.org/Integer", "Class of the object's shape; -1 where unknown."),
    "texture": ("https://schema.org/Integer", "Class of the object's texture; -1 where unknown."),
    "background": ("https://schema.org/Integer", "Class of the background; -1 where unknown."),
}


def write_croissant(test: TestSet, out: Path, published: date) -> list[Path]:
    """Write a suite's embedded test images, and what Croissant says of them.

    Args:
        test: The images; of a world that says where its material comes from.
        out: The folder; the suite gets one in it.
        published: The day on which the files are published.

    Returns:
        The Parquet file and `croissant.json`.

    Raises:
        ValueError: If the images are not embedded, or the world does not say where its material
            comes from.
    """
    if test.source.folder is not None or test.suite.world.material is None:
        raise ValueError(
            f"{test.suite.name} has no embedded images whose origin and licence are known"
        )
    folder = out / test.suite.name
    images, metadata = folder / IMAGES, folder / "croissant.json"
    folder.mkdir(parents=True, exist_ok=True)
    tables = [_table(name, each) for name, each in test.variants.items()]
    with written(images) as place:
        pq.write_table(pa.concat_tables(tables), place)
    text = json.dumps(croissant_metadata(test, images, published), indent=2, ensure_ascii=False)
    write_text(metadata, text + "\n")
    return [images, metadata]


def croissant_metadata(test: TestSet, images: Path, published: date) -> dict[str, Any]:
    """Describe a file of test images, as JSON-LD.

    Args:
        test: The images that the file holds.
        images: The file, from `write_croissant`.
        published: The day on which it is published.

    Raises:
        ValueError: If the world does not say where its material comes from.
    """
    import mlcroissant as mlc

    suite, material = test.suite, test.suite.world.material
    if material is None:
        raise ValueError(f"{suite.world.name} does not say where its material comes from")
    file = mlc.FileObject(
        id=IMAGES,
        name=IMAGES,
        content_url=IMAGES,
        encoding_formats=["application/x-parquet"],
        sha256=file_sha256(images),
        content_size=f"{images.stat().st_size} B",
    )
    fields = [
        mlc.Field(
            id=f"images/{name}",
            name=name,
            description=about,
            data_types=[kind],
            source=mlc.Source(file_object=IMAGES, extract=mlc.Extract(column=name)),
        )
        for name, (kind, about) in FIELDS.items()
    ]
    metadata = mlc.Metadata(
        name=suite.name,
        description=f"{suite.question} {_about(suite, test)}",
        url="https://pypi.org/project/cgn-bench/",
        license=[material.licence],
        cite_as=material.citation,
        version="1.0.0",
        date_published=datetime.combine(published, time()),
        keywords=["robustness", "counterfactuals", "image classification", suite.world.name],
        distribution=[file],
        record_sets=[mlc.RecordSet(id="images", name="images", fields=fields)],
        data_collection=material.collection,
        data_collection_type=["Synthetic" if material.is_synthetic else "Secondary Data Analysis"],
        data_preprocessing_protocol=[
            f"All images are {suite.world.image_size_px} pixels a side, uint8 RGB; the same "
            f"protocol, {suite.protocol}, gives the same bytes on every machine "
            f"(sha256 of images and labels {test.data_sha256})."
        ],
        data_annotation_protocol=[
            "Labels of shape, texture and background are those that the image was made with."
        ],
        data_biases=[material.biases],
        data_limitations=[material.limitations],
        data_use_cases=[
            "Testing whether an image classifier follows shape, texture or background. Not for "
            "training: no part of a test set may be trained or tuned on."
        ],
        data_social_impact="No person is shown or described.",
        personal_sensitive_information=["None."],
        data_release_maintenance_plan="A change of any image makes a new version of the protocol.",
    )
    jsonld: dict[str, Any] = metadata.to_json()
    return jsonld | {"conformsTo": list(CONFORMS_TO)}


def _about(suite: Suite, test: TestSet) -> str:
    """Say what the test sets are."""
    sets = ", ".join(f"{name} ({len(images)})" for name, images in test.variants.items())
    classes = ", ".join(suite.world.classes)
    return f"Test sets with their numbers of images: {sets}. Classes: {classes}."


def _table(name: str, images: ImageSet) -> pa.Table:
    """The rows of one test set."""
    columns: dict[str, Any] = {"image": pa.array(_png(images.images()), pa.binary())}
    columns |= {"variant": pa.array([name] * len(images), pa.string())}
    numbers = {"id": images.ids} | images.factors._asdict()
    columns |= {column: pa.array(each.numpy(), pa.int64()) for column, each in numbers.items()}
    return pa.table(columns)


def _png(images: Tensor) -> Iterator[bytes]:
    """Encode images (N, 3, H, W) in [0, 1]."""
    pixels = (255 * images).round().to(torch.uint8).movedim(1, -1).numpy()
    for each in pixels:
        file = io.BytesIO()
        Image.fromarray(each).save(file, "PNG")
        yield file.getvalue()
