"""Rows of Parquet files, a portion at a time."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afa_dist.data import portions
from afa_dist.data.portions import Portions, row_groups
from afa_dist.errors import UserError


def write(path, rows):
    values = [bytes([row % 251]) * 200 for row in range(rows)]
    table = pa.table({"value": pa.array(values, pa.binary())})
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 400, "write_page_checksum": True}
    pq.write_table(table, path, write_batch_size=2, **options)
    return values


def test_a_portion_that_fails_fails_again_and_others_are_right(tmp_path, monkeypatch):
    monkeypatch.setattr(portions, "PORTION", 10)
    path = tmp_path / "x.parquet"
    values = write(path, 60)
    content = bytearray(path.read_bytes())
    content[content.index((200).to_bytes(4, "little") + values[35]) + 100] ^= 1  # not where statistics have it
    path.write_bytes(content)
    stored = Portions(row_groups([path], ("value",)))

    def read(*rows):
        return [value for _, table in stored.tables(np.array(rows)) for value in table["value"].to_pylist()]

    assert read(3, 12) == [values[3], values[12]]
    for _ in range(2):
        with pytest.raises(UserError, match=r"x\.parquet: is not a whole Parquet file"):
            read(35)
        assert read(25, 29) == [values[25], values[29]]
    assert read(0, 11, 22) == [values[0], values[11], values[22]]


def test_few_large_rows_are_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(portions, "PORTION_BYTES", 1000)
    values = write(tmp_path / "x.parquet", 60)
    (group,) = row_groups([tmp_path / "x.parquet"], ("value",))
    assert 1 <= group.portion <= 5
    stored = Portions([group])
    tables = [table for _, table in stored.tables(np.arange(60))]
    assert [value for table in tables for value in table["value"].to_pylist()] == values
    assert max(map(len, tables)) == group.portion
