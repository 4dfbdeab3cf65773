"""Rows of Parquet files a portion at a time, whatever the size of their row groups.

Legend: M rows asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afa_dist.data.parquet import named_failures
from afa_dist.data.remote import RemoteFile

PORTION, PORTION_BYTES = 1000, 32 << 20
"""Rows that are read together, and of large ones bytes."""

BUFFER_BYTES = 1 << 20
"""Without a limit Arrow reads a whole column of a row group, which may be gigabytes."""

FAR_BUFFER_BYTES = 8 << 20
"""Of files at addresses, where each reading takes long."""


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group: the number of its first row in the set and in its file, how many it has, the columns to be read, and how
    many rows are read together."""

    path: Path | RemoteFile
    number: int
    first: int
    first_of_file: int
    rows: int
    columns: tuple[str, ...]
    portion: int


def row_groups(paths: Sequence[Path | RemoteFile], columns: tuple[str, ...]) -> list[RowGroup]:
    """All that have rows, of files that are a set in this order."""
    groups: list[RowGroup] = []
    first = 0
    for path in paths:
        with opened(path) as file:
            metadata, of_file = file.metadata, 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            if rows:
                portion = PORTION_BYTES * rows // max(1, metadata.row_group(number).total_byte_size)
                groups.append(RowGroup(path, number, first, of_file, rows, columns, min(PORTION, max(1, portion))))
            first, of_file = first + rows, of_file + rows
    return groups


def opened(path: Path | RemoteFile) -> pq.ParquetFile:
    """A file whose pages are checked as they are read, a little at a time."""
    far = isinstance(path, RemoteFile)
    return pq.ParquetFile(
        path.open() if isinstance(path, RemoteFile) else path,
        page_checksum_verification=True,
        buffer_size=FAR_BUFFER_BYTES if far else BUFFER_BYTES,
        pre_buffer=False,
    )


class Portions:
    """Reads rows of `groups` by their number in the set. Rows that are asked for in ascending order are read once: the last
    file stays open, at the place where it was read to."""

    def __init__(self, groups: Sequence[RowGroup]) -> None:
        self.groups = list(groups)
        self._firsts = np.array([group.first for group in groups])
        self._file: tuple[Path | RemoteFile, pq.ParquetFile] | None = None
        self._stream: tuple[RowGroup, Iterator[pa.RecordBatch]] | None = None
        self._last: tuple[RowGroup, int, pa.Table] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None, "_stream": None, "_last": None}

    def group_of(self, row: int) -> RowGroup:
        """The row group that holds a row."""
        return self.groups[int(np.searchsorted(self._firsts, row, side="right")) - 1]

    def tables(self, rows_M: np.ndarray) -> Iterator[tuple[RowGroup, pa.Table]]:
        """Rows of ascending numbers, portion by portion, with the row group that they are of."""
        numbers_M = np.searchsorted(self._firsts, rows_M, side="right") - 1
        sizes_M = np.array([group.portion for group in self.groups], dtype=np.int64)[numbers_M]
        portions_M = (rows_M - self._firsts[numbers_M]) // sizes_M
        starts = np.flatnonzero((np.diff(numbers_M, prepend=-1) != 0) | (np.diff(portions_M, prepend=-1) != 0))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows_M)], strict=True):
            group, portion = self.groups[int(numbers_M[start])], int(portions_M[start])
            yield group, self._portion(group, portion).take(rows_M[start:stop] - group.first - portion * group.portion)

    def _portion(self, group: RowGroup, number: int) -> pa.Table:
        """Rows number * portion to (number + 1) * portion - 1 of a group."""
        if self._last is not None and self._last[:2] == (group, number):
            return self._last[2]
        try:
            with named_failures(group.path):
                batch = self._read(group, number)
        except BaseException:  # where the file stands now is not known
            self._file, self._stream, self._last = None, None, None
            raise
        table = pa.Table.from_batches([batch])
        assert len(table) == min(group.portion, group.rows - number * group.portion), f"{group.path} gave {len(table)} rows"
        self._last = (group, number, table)
        return table

    def _read(self, group: RowGroup, number: int) -> pa.RecordBatch:
        if self._last is None or self._stream is None or self._last[0] != group or self._last[1] >= number:
            self._begin(group)
        assert self._stream is not None
        read = self._last[1] + 1 if self._last is not None else 0
        for _ in range(read, number + 1):
            batch = next(self._stream[1])
        return batch

    def _begin(self, group: RowGroup) -> None:
        """Read a group from its first row on."""
        if self._file is None or self._file[0] != group.path:
            self._file = (group.path, opened(group.path))
        batches = self._file[1].iter_batches(group.portion, row_groups=[group.number], columns=list(group.columns))
        self._stream, self._last = (group, iter(batches)), None
