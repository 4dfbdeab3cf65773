"""Parquet files of drawn images: each appears whole, says what it belongs to, and is checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afa_dist.files import write_aside

IDENTITY = b"afa_dist"


class DamagedShard(ValueError):
    """A file that is not what was written."""


class ForeignShard(ValueError):
    """A file that belongs to another set."""


def write_shard(path: Path, table: pa.Table, classes: Sequence[str], identity: str) -> None:
    """Write rows as a file in the Hugging Face image layout, with checksums on all pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {b"huggingface": json.dumps(_features(table.schema, classes)).encode(), IDENTITY: identity.encode()}
    whole = table.replace_schema_metadata(metadata)
    write_aside(path, lambda aside: pq.write_table(whole, aside, write_page_checksum=True, compression="zstd"))


def read_shard(path: Path, identity: str, rows: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file.

    Raises:
        DamagedShard: they are not what was written, or not so many.
        ForeignShard: they belong to another set.
        FileNotFoundError: there is none.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = (file.schema_arrow.metadata or {}).get(IDENTITY, b"").decode()
            if found != identity:
                raise ForeignShard(f"{path} belongs to a set with other options")
            if rows is not None and file.metadata.num_rows != rows:
                raise DamagedShard(f"{path} has {file.metadata.num_rows} rows, not {rows}")
            return file.read(columns=columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedShard(f"{path} is damaged: {(str(error).splitlines() or ['unreadable'])[0]}") from error


def _features(schema: pa.Schema, classes: Sequence[str]) -> Mapping[str, Any]:
    """What the packages of Hugging Face read: an image, class labels with names, numbers."""
    label = {"names": list(classes), "_type": "ClassLabel"}
    features: dict[str, Any] = {}
    for field in schema:
        if field.name == "image":
            features[field.name] = {"_type": "Image"}
        elif field.name in ("label", "intended", "predicted"):
            features[field.name] = label
        else:
            features[field.name] = {"dtype": str(field.type).replace("double", "float64"), "_type": "Value"}
    return {"info": {"features": features}}
