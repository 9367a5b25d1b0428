"""Labelled images in tar and Parquet files, as WebDataset and the `datasets` library lay them out."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_tar(path: Path, images: Sequence[bytes], labels: Sequence[str]) -> Path:
    """Numbered images with their labels beside them."""
    with tarfile.open(path, "w") as tar:
        for number, pair in enumerate(zip(images, labels, strict=True)):
            for suffix, content in zip(("jpg", "cls"), (pair[0], pair[1].encode()), strict=True):
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_table(
    path: Path, images: Sequence[bytes | None], labels: Any, names: Any = None, kind: Any = STRUCT, **options: Any
) -> Path:
    """A file with the columns image, of a kind of Arrow's, and label. names: of the classes, in the metadata."""
    column = images
    if kind is STRUCT:
        column = [None if image is None else {"bytes": image, "path": "x.png"} for image in images]
    found = pa.table({"image": pa.array(column, kind), "label": labels, "id": pa.array(range(len(images)))})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    if names is not None:
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(found, path, **options)
    return path
