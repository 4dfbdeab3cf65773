"""Parquet files in the Hugging Face image layout, as they are written here.

Legend: H height, W width.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from afa_dist.files import write_aside

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

ROW_GROUP = 1000

CLASS_COLUMNS = ("label", "intended", "predicted")
"""Columns whose numbers are classes, with names in the schema."""


def write_rows(path: Path, table: pa.Table, classes: Sequence[str], metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Write rows whole or not at all, with class names and `metadata` in the schema and checksums on all pages.

    In small row groups: Arrow cannot read more than 2 GiB of images at once (apache/arrow #32723).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {b"huggingface": json.dumps(_features(table.schema, classes)).encode(), **(metadata or {})}
    whole = table.replace_schema_metadata(known)
    write_aside(path, lambda aside: pq.write_table(whole, aside, ROW_GROUP, write_page_checksum=True, compression="zstd"))


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file, with the schema's metadata; pages that have checksums are compared with them.

    Raises:
        pyarrow.ArrowException, OSError: it is not whole.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = [file.read_row_group(number, columns) for number in range(file.num_row_groups)]
        return pa.concat_tables(groups) if groups else file.read(columns)


def file_name(number: int, count: int) -> str:
    """The name of one of `count` files of training images."""
    return f"train-{number:05d}-of-{count:05d}.parquet"


def png(image_HWC: np.ndarray) -> bytes:
    """An image, uint8 with 1 or 3 channels, as PNG."""
    file = io.BytesIO()
    Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _features(schema: pa.Schema, classes: Sequence[str]) -> Mapping[str, Any]:
    """What the packages of Hugging Face read: an image, class labels with names, numbers."""
    label = {"names": list(classes), "_type": "ClassLabel"}
    features: dict[str, Any] = {}
    for field in schema:
        if field.name == "image":
            features[field.name] = {"_type": "Image"}
        elif field.name in CLASS_COLUMNS:
            features[field.name] = label
        else:
            features[field.name] = {"dtype": str(field.type).replace("double", "float64"), "_type": "Value"}
    return {"info": {"features": features}}
