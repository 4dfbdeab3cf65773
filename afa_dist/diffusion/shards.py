"""Parquet files of drawn images: each appears whole, says what it belongs to, and is checked when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from afa_dist.data.writing import read_rows, write_rows

IDENTITY = b"afa_dist"


class DamagedShard(ValueError):
    """A file that is not what was written."""


class ForeignShard(ValueError):
    """A file that belongs to another set."""


def write_shard(path: Path, table: pa.Table, classes: Sequence[str], identity: str) -> None:
    """Write rows of the set `identity`."""
    write_rows(path, table, classes, {IDENTITY: identity.encode()})


def read_shard(path: Path, identity: str, rows: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file.

    Raises:
        DamagedShard: they are not what was written, or not so many.
        ForeignShard: they belong to another set.
        FileNotFoundError: there is none.
    """
    try:
        found = pq.read_schema(path).metadata or {}
        if found.get(IDENTITY, b"").decode() != identity:
            raise ForeignShard(f"{path} belongs to a set with other options")
        table = read_rows(path, columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedShard(f"{path} is damaged: {(str(error).splitlines() or ['unreadable'])[0]}") from error
    if rows is not None and len(table) != rows:
        raise DamagedShard(f"{path} has {len(table)} rows, not {rows}")
    return table
