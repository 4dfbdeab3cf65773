"""Parquet in the Hugging Face layout, good and bad."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from afa_dist.config import DataConfig
from afa_dist.data.catalogue import load_splits
from afa_dist.errors import UserError

CLASSES = ["cat", "dog", "owl"]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(n, shape=(6, 5, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write(path, images, labels, classes=CLASSES, columns=("img", "label")):
    rows = [{"bytes": data, "path": None} for data in images]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(rows, struct), columns[1]: pa.array(labels, pa.int64())})
    if classes:
        features = {columns[1]: {"names": classes, "_type": "ClassLabel"}, columns[0]: {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def good(folder, n=30):
    pixels = pixels_of(n)
    labels = np.arange(n) % 3
    half = n // 2
    write(folder / "train-00000-of-00002.parquet", [png(p) for p in pixels[:half]], labels[:half])
    write(folder / "train-00001-of-00002.parquet", [png(p) for p in pixels[half:]], labels[half:])
    write(folder / "test-00000-of-00001.parquet", [png(p) for p in pixels[:9]], labels[:9])
    return pixels, labels


def load(folder, **options):
    return load_splits(DataConfig(name="parquet", path=str(folder), held_out=0, **options))


def test_pixels_labels_and_names_arrive(tmp_path):
    pixels, labels = good(tmp_path)
    splits = load(tmp_path)
    assert torch.equal(splits.train.images_NCHW, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert splits.train.labels_N.tolist() == labels.tolist()
    assert splits.train.classes == ("cat", "dog", "owl")
    assert len(splits.test) == 9


def test_files_that_number_their_classes_otherwise_are_refused(tmp_path):
    """A label says what its own file means by it: read with another file's names, all of its labels would be wrong."""
    pixels, _ = good(tmp_path)
    images, labels = [png(p) for p in pixels[:6]], [0, 0, 1, 1, 2, 2]
    write(tmp_path / "train-00001-of-00002.parquet", images, labels, classes=["dog", "cat", "owl"])
    with pytest.raises(UserError, match=r"00001.*classes dog, cat, owl, a file before it cat, dog, owl"):
        load(tmp_path)
    good(tmp_path)
    write(tmp_path / "test-00000-of-00001.parquet", images, labels, classes=["dog", "cat", "owl"])
    with pytest.raises(UserError, match=r"cat is dog in the test images"):
        load(tmp_path)
    write(tmp_path / "test-00000-of-00001.parquet", images, labels)
    write(tmp_path / "train-00001-of-00002.parquet", images, labels, classes=None)  # has no names of its own
    assert load(tmp_path).train.classes == tuple(CLASSES)


def test_limits_are_even_over_the_classes_and_stable(tmp_path):
    good(tmp_path)
    splits = load(tmp_path, train_limit=12, test_limit=3)
    assert splits.train.labels_N.bincount().tolist() == [4, 4, 4]
    assert splits.test.labels_N.tolist() == [0, 1, 2] or sorted(splits.test.labels_N.tolist()) == [0, 1, 2]
    assert splits.fingerprint() == load(tmp_path, train_limit=12, test_limit=3).fingerprint()
    assert splits.fingerprint() != load(tmp_path).fingerprint()


def test_grey_images_have_one_channel(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [png(p) for p in pixels_of(6, (4, 4))], [0, 0, 1, 1, 2, 2])
    assert load(tmp_path).train.shape == (1, 4, 4)


def damage_truncate(folder):
    path = folder / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def damage_image(folder):
    write(folder / "test-00000-of-00001.parquet", [png(pixels_of(1)[0]), b"\x89PNG nonsense"] * 3, [0, 0, 1, 1, 2, 2])


def damage_label(folder):
    write(folder / "train-00001-of-00002.parquet", [png(p) for p in pixels_of(4)], [0, 1, 7, 2])


def damage_negative_label(folder):
    write(folder / "train-00001-of-00002.parquet", [png(p) for p in pixels_of(4)], [0, 1, -1, 2])


def damage_single(folder):
    (folder / "train-00001-of-00002.parquet").unlink()
    write(folder / "train-00000-of-00002.parquet", [png(p) for p in pixels_of(5)], [0, 0, 1, 1, 2])


def damage_size(folder):
    write(folder / "test-00000-of-00001.parquet", [png(pixels_of(1)[0]), png(pixels_of(1, (7, 7, 3))[0])], [0, 0])


def damage_columns(folder):
    write(folder / "test-00000-of-00001.parquet", [png(pixels_of(1)[0])], [0], columns=("img", "target"))


def damage_missing(folder):
    (folder / "test-00000-of-00001.parquet").unlink()


def damage_empty(folder):
    write(folder / "test-00000-of-00001.parquet", [], [])


def damage_null_label(folder):
    write(folder / "test-00000-of-00001.parquet", [png(pixels_of(1)[0])] * 2, [0, None])


@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
        (damage_truncate, "train-00000-of-00002.parquet", "not a whole Parquet file"),
        (damage_image, "test-00000-of-00001.parquet", "row 1 holds no readable image"),
        (damage_label, "train-00000-of-00002.parquet", "label 7 in row 17 is out of range"),
        (damage_negative_label, "train-00000-of-00002.parquet", "label -1 in row 17"),
        (damage_single, "train-00000-of-00002.parquet", "class 'owl' has one image"),
        (damage_size, "test-00000-of-00001.parquet", "row 1 is 7x7 pixels, the first image 5x6"),
        (damage_columns, "test-00000-of-00001.parquet", "no integer label column"),
        (damage_missing, "", "holds no test*.parquet"),
        (damage_empty, "test-00000-of-00001.parquet", "holds no images"),
        (damage_null_label, "test-00000-of-00001.parquet", "1 rows have no label"),
    ],
)
def test_damage_is_named_with_its_file(damage, file, words, tmp_path: Path):
    good(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert words in message
    assert str(tmp_path / file) in message


def test_mistakes_in_both_splits_are_reported_together(tmp_path):
    good(tmp_path)
    damage_truncate(tmp_path)
    damage_image(tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert len(caught.value.problems) == 2
