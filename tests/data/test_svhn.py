"""SVHN's MATLAB files, good and bad."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from afa_dist.config import DataConfig
from afa_dist.data.catalogue import load_part, load_splits
from afa_dist.errors import UserError

RANDOM = np.random.default_rng(0)
DIGITS = np.arange(40) % 10
PIXELS = RANDOM.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)


def write(path, pixels=PIXELS, digits=DIGITS, **options):
    labels = np.where(digits == 0, 10, digits)[:, None].astype(np.uint8)
    savemat(path, {"X": pixels.transpose(2, 3, 1, 0), "y": labels}, **options)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train_32x32.mat", do_compression=True)
    write(tmp_path / "test_32x32.mat", PIXELS[:10], DIGITS[:10])
    return tmp_path


def load(folder, **options):
    return load_splits(DataConfig(name="svhn", path=str(folder), held_out=0, **options))


def test_rows_and_columns_stay_where_they_are_and_ten_is_zero(folder):
    splits = load(folder)
    assert torch.equal(splits.train.images_NCHW, torch.from_numpy(PIXELS))
    assert splits.train.images_NCHW.is_contiguous()
    assert splits.train.labels_N.tolist() == DIGITS.tolist()
    assert splits.train.labels_N.dtype == torch.int64
    assert splits.train.classes == tuple("0123456789")
    assert torch.equal(load_part(DataConfig(name="svhn", path=str(folder)), "test").images_NCHW, splits.test.images_NCHW)


def test_limits_are_even_over_the_classes(folder):
    splits = load(folder, train_limit=20)
    assert splits.train.labels_N.bincount().tolist() == [2] * 10
    rows = [
        next(i for i in range(40) if torch.equal(torch.from_numpy(PIXELS[i]), image)) for image in splits.train.images_NCHW
    ]
    assert splits.train.labels_N.tolist() == DIGITS[rows].tolist()


def truncate(path):
    path.write_bytes(path.read_bytes()[:5000])


def other_variables(path):
    savemat(path, {"digitStruct": np.zeros(3)})


def channels_first(path):
    savemat(path, {"X": PIXELS, "y": np.ones((40, 1))})


def labels_missing(path):
    savemat(path, {"X": PIXELS.transpose(2, 3, 1, 0), "y": np.ones((39, 1))})


def label_zero(path):
    savemat(path, {"X": PIXELS.transpose(2, 3, 1, 0), "y": np.r_[1, 2, 0, 11, np.ones(36)]})


def one_image(path):
    write(path, PIXELS[:21], np.r_[DIGITS[:20] % 9, 9])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "is not a whole MATLAB file"),
        (lambda path: path.write_bytes(b"<html>" * 100), "is not a whole MATLAB file"),
        (lambda path: path.write_bytes(b""), "is not a whole MATLAB file"),
        (other_variables, "has no variable X and y"),
        (channels_first, r"images X are uint8 \(40, 3, 32, 32\), expected uint8 \(32, 32, 3, N\)"),
        (labels_missing, r"labels y are .* \(39, 1\), expected one number for each of 40 images"),
        (label_zero, r"label 0.* of image 2 is out of range; labels run from 1 to 10.* \(2 are wrong\)"),
        (one_image, "class '9' has one image"),
    ],
)
def test_damage_is_named_with_its_file(damage, words, folder):
    damage(folder / "train_32x32.mat")
    with pytest.raises(UserError, match=words) as caught:
        load(folder)
    assert caught.value.problems[0].where == str(folder / "train_32x32.mat")


def test_a_file_cut_anywhere_is_a_mistake(folder):
    path = folder / "test_32x32.mat"
    content = path.read_bytes()
    for length in [*range(0, 300, 7), len(content) // 2, len(content) - 9]:  # the last 6 bytes are padding
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            load(folder)


def test_missing_files_are_reported_together(folder):
    (folder / "train_32x32.mat").unlink()
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(UserError) as caught:
        load(folder)
    assert ["train_32x32.mat" in p.what for p in caught.value.problems] == [True, False]
    assert ["test_32x32.mat" in p.what for p in caught.value.problems] == [False, True]


def test_images_of_one_size_take_no_other(folder):
    with pytest.raises(
        UserError, match=r"image_size: 16 is not allowed with svhn.*folder, tiny-imagenet and parquet take it"
    ):
        load(folder, image_size=16)
