"""Published .npz sets: converted image by image as they are, or refused by name with nothing left behind."""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.cli.preparing import main
from afa_dist.config import DataConfig
from afa_dist.data.generated import load_generated
from afa_dist.data.image_set import ImageSet
from afa_dist.data.npz import NpzImages
from afa_dist.data.sources.arrays import class_names
from afa_dist.errors import UserError
from tests.data.preparing import prepared


def pixels(count=25, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, 6, 4, channels), np.uint8)


def labels(count=25):
    return np.arange(count) % 4


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 30),
    channels=st.sampled_from([1, 3]),
    shard=st.integers(1, 12),
    form=st.sampled_from(["arrow", "parquet"]),
    compressed=st.booleans(),
    dtype=st.sampled_from([np.int64, np.uint8, np.int32]),
)
def test_every_image_arrives_unchanged_in_its_place(tmp_path_factory, count, channels, shard, form, compressed, dtype):
    folder = tmp_path_factory.mktemp("npz")
    x, y = pixels(count, channels), labels(count).astype(dtype)
    (np.savez_compressed if compressed else np.savez)(folder / "set.npz", image=x, label=y)
    record = prepared(folder / "set.npz", folder / "out", classes=tuple("abcd"), shard_size=shard, form=form)
    part = record["splits"]["train"]
    assert [file["rows"] for file in part["files"]] == [min(shard, count - s) for s in range(0, count, shard)]
    real = ImageSet(torch.zeros(4, channels, 6, 4, dtype=torch.uint8), torch.arange(4), tuple("abcd"))
    read = load_generated(DataConfig(generated=str(folder / "out")), real)
    assert np.array_equal(read.in_memory()[0].permute(0, 2, 3, 1).numpy(), x)
    assert read.labels_N.tolist() == y.tolist()
    assert json.loads((folder / "out" / "dataset.json").read_text()) == json.loads(json.dumps(record))
    assert list(part["per_class"]) == np.bincount(y, minlength=4).tolist()


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def object_array():
    array = np.empty(25, dtype=object)
    array[0] = Trap()
    return array


BAD = {
    "float pixels": ({"image": pixels() / 255, "label": labels()}, "image is float64, not uint8"),
    "no labels": ({"image": pixels(), "labels": labels()}, "has no label; it holds image, labels"),
    "no images": ({"data": pixels(), "label": labels()}, "has no image; it holds data, label"),
    "lengths differ": ({"image": pixels(), "label": labels(24)}, "has 25 images and 24 labels"),
    "labels out of range": (
        {"image": pixels(), "label": labels() + 1},
        "label 4 of image 3 is out of range; allowed: 0 to 3",
    ),
    "negative labels": ({"image": pixels(), "label": labels() - 1}, "label -1 of image 0 is out of range"),
    "channels first": ({"image": pixels().transpose(0, 3, 1, 2).copy(), "label": labels()}, "images x channels x height"),
    "one image": ({"image": pixels()[0], "label": labels()}, "not images x height x width x channels"),
    "float labels": ({"image": pixels(), "label": labels() / 2}, "label is float64, not whole numbers"),
    "one-hot labels": ({"image": pixels(), "label": np.eye(4)[labels()].astype(int)}, "not one number an image"),
    "by columns": ({"image": np.asfortranarray(pixels()), "label": labels()}, "Fortran"),
    "pickles": ({"image": pixels(), "label": object_array()}, "pickled objects, which are never loaded"),
}


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_refused_by_name(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays, words = BAD[case]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError) as caught:
        class_names(NpzImages(tmp_path / "set.npz"), tuple("abcd"))
    assert words in str(caught.value) and "set.npz" in str(caught.value)
    assert not (tmp_path / "unpickled").exists()


def test_all_mistakes_of_a_file_are_named_together(tmp_path):
    np.savez(tmp_path / "set.npz", image=pixels().astype(np.float32), label=labels(20) / 2)
    with pytest.raises(UserError) as caught:
        NpzImages(tmp_path / "set.npz")
    assert len(caught.value.problems) == 3


def stored(*, spoil):
    """An uncompressed file, one byte of whose pixels is changed, or whose end is missing."""
    file = io.BytesIO()
    np.savez(file, image=pixels(4000), label=labels(4000))
    data = bytearray(file.getvalue())
    if spoil == "cut":
        return bytes(data[: len(data) // 2])
    data[len(data) // 2] ^= 1
    return bytes(data)


@pytest.mark.parametrize("spoil", ["cut", "flipped"])
def test_damaged_files_make_no_set(spoil, tmp_path):
    (tmp_path / "set.npz").write_bytes(stored(spoil=spoil))
    with pytest.raises(UserError, match="is not a whole"):
        prepared(tmp_path / "set.npz", tmp_path / "out", shard_size=1500)
    assert not (tmp_path / "out").exists()


def test_more_pixels_than_memory_should_hold_are_read_in_portions(tmp_path):
    """The file says 3 GB of zeros; what is held at a time is a portion."""
    count, header = 1_000_000, io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (count, 32, 32, 3)})
    label = io.BytesIO()
    np.save(label, np.zeros(count, np.uint8))
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("label.npy", label.getvalue())
        with archive.open("image.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(100):  # a tenth: reading stops long before
                member.write(bytes(32 * 32 * 3 * 1000))
    images = NpzImages(tmp_path / "set.npz")
    assert images.count == count and images.shape == (32, 32, 3)
    stream = images.stream()
    assert stream.read(1000).nbytes == 3_072_000
    assert stream.read(1000).nbytes == 3_072_000


def test_the_job_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "set.npz", image=pixels(), label=labels())

    def prepare(*words):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words])
        code = main("prepare_data.py", "")
        return code, "".join(capsys.readouterr())

    for words, mistakes in (
        (["nothing.npz", ".", "--shard_size", "-1"], ["shard_size"]),
        (["nothing.npz", "."], ["does not exist", "not an empty folder"]),
        (["set.pickle", "out"], ["executes code"]),
        ([], ["source: missing", "dest: missing"]),
    ):
        code, said = prepare(*words)
        assert code == 2 and all(words in said for words in mistakes), said
    code, said = prepare("set.npz", "out", "--classes", "a,b,c,d", "--shard_size", "10", "--form", "parquet")
    assert code == 0, said
    assert "25 images, 6 to 7 of each class" in said and "--data.generated out" in said
    assert [len(pq.read_table(path)) for path in sorted((tmp_path / "out").glob("*.parquet"))] == [10, 10, 5]
    assert prepare("set.npz", "out")[0] == 2
