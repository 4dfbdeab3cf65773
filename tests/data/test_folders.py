"""Trees of image files and Tiny-ImageNet's layout, good and bad."""

import os
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from afa_dist.config import DataConfig
from afa_dist.data import folders
from afa_dist.data.catalogue import load_part, load_splits
from afa_dist.data.image_set import choose_evenly
from afa_dist.errors import UserError
from tests.data.test_parquet import CLASSES, pixels_of, png, write

WNIDS = ["n03", "n01", "n02"]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def tree(root, per_class=6, test="test", shape=(6, 5, 3)):
    for split, count, seed in (("train", per_class, 0), (test, 3, 1)):
        pixels = pixels_of(3 * count, shape, seed)
        for i, image in enumerate(pixels):
            save(root / split / CLASSES[i // count] / f"{i:03}.png", image)
    return pixels_of(3 * per_class, shape, 0)


def tiny(root, names=True):
    pixels = iter(pixels_of(18, (8, 8, 3)))
    for wnid in WNIDS:
        for i in range(4):
            save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", next(pixels))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("box")
    lines = []
    for i in range(6):
        save(root / "val/images" / f"val_{i}.JPEG", next(pixels))
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t1\t2\t3\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    if names:
        (root / "words.txt").write_text("n01\tcrane, big bird\nn02\tcrane\nn03\tgoldfish, Carassius\nn99\tcrane\n")
    save(root / "test/images/test_0.JPEG", pixels_of(1, (8, 8, 3))[0])


def load(folder, name="folder", **options):
    return load_splits(DataConfig(name=name, path=str(folder), held_out=0, **options))


@pytest.mark.parametrize("test", ["test", "val", "valid"])
def test_pixels_labels_and_names_arrive(test, tmp_path):
    pixels = tree(tmp_path, test=test)
    splits = load(tmp_path)
    assert torch.equal(splits.train.images_NCHW, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert splits.train.labels_N.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert splits.train.classes == ("cat", "dog", "owl")
    assert splits.test.labels_N.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_a_tree_and_the_same_images_as_parquet_are_equal(tmp_path):
    pixels = tree(tmp_path / "tree")
    (tmp_path / "parquet").mkdir()
    for split, images in (("train", pixels), ("test", pixels_of(9, seed=1))):
        write(tmp_path / f"parquet/{split}.parquet", [png(p) for p in images], np.arange(len(images)) // (len(images) // 3))
    for options in ({}, {"train_limit": 7, "test_limit": 4}, {"image_size": 4}, {"image_size": 9}):
        assert (
            load(tmp_path / "tree", **options).fingerprint()
            == load(tmp_path / "parquet", "parquet", **options).fingerprint()
        )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.integers(1, 20))
def test_order_and_choice_do_not_depend_on_the_file_system(tmp_path_factory, seed, limit):
    root = tmp_path_factory.mktemp("order")
    pixels = tree(root)
    whole = load(root)
    scandir = os.scandir

    class Shuffled:
        def __init__(self, place):
            with scandir(place) as entries:
                self.entries = list(entries)
            random.Random(seed).shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders.os, "scandir", Shuffled)
        assert load(root).fingerprint() == whole.fingerprint()
        part = load(root, train_limit=limit).train
    rows = choose_evenly(whole.train.labels_N.numpy(), limit, seed=0)
    assert part.fingerprint() == whole.train.subset(rows).fingerprint()
    counts = part.labels_N.bincount(minlength=3)
    assert counts.max() - counts.min() <= 1
    assert len(part) == min(limit, len(pixels))


def test_only_chosen_images_are_decoded(tmp_path, monkeypatch):
    tree(tmp_path)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or original(path))
    load(tmp_path, train_limit=3, test_limit=3)
    assert len(opened) == 6


def test_order_is_that_of_plain_strings(tmp_path):
    images = pixels_of(4)
    for name, image in zip(["10.png", "9.png", "B.png", "a.png"], images, strict=True):
        save(tmp_path / "train/x" / name, image)
        save(tmp_path / "test/x" / name, image)
    assert torch.equal(load(tmp_path).train.images_NCHW, torch.from_numpy(images).permute(0, 3, 1, 2))


def test_other_files_are_passed_over_and_links_followed(tmp_path):
    tree(tmp_path)
    want = load(tmp_path).fingerprint()
    cat = tmp_path / "train/cat"
    for name in ("Thumbs.db", ".DS_Store", "readme.txt", "._000.png"):
        (cat / name).write_bytes(b"no image")
    (tmp_path / "train/.cache").mkdir()
    (cat / "folder.png").mkdir()
    (tmp_path / "train/list.csv").touch()
    shutil.move(cat, tmp_path / "elsewhere")
    cat.symlink_to(tmp_path / "elsewhere")
    shutil.move(tmp_path / "train/dog/006.png", tmp_path / "apart.png")
    (tmp_path / "train/dog/006.PNG").symlink_to(tmp_path / "apart.png")
    assert load(tmp_path).fingerprint() == want


def test_a_test_split_may_lack_classes_and_labels_stay(tmp_path):
    tree(tmp_path)
    shutil.rmtree(tmp_path / "test/cat")
    for path in (tmp_path / "test/dog").iterdir():
        path.unlink()
    splits = load(tmp_path)
    assert splits.test.labels_N.tolist() == [2, 2, 2]
    assert splits.test.classes == splits.train.classes
    part = load_part(DataConfig(name="folder", path=str(tmp_path)), "test")
    assert part.fingerprint() == splits.test.fingerprint()


def test_an_unlabelled_test_folder_is_passed_over(tmp_path):
    tree(tmp_path, test="val")
    save(tmp_path / "test/1.png", pixels_of(1)[0])
    assert len(load(tmp_path).test) == 9


def empty_class(root):
    (root / "train/yak").mkdir()


def unknown_class(root):
    (root / "test/cat").rename(root / "test/Cat")


def broken(root):
    (root / "train/cat/001.png").write_bytes(b"\x89PNG nonsense")


def nothing(root):
    (root / "train/owl/012.png").write_bytes(b"")


def dangling(root):
    (root / "train/cat/link.png").symlink_to(root / "nowhere")


def single(root):
    for path in sorted((root / "train/dog").iterdir())[1:]:
        path.unlink()


def other_size(root):
    save(root / "train/dog/zzz.png", pixels_of(1, (9, 7, 3))[0])


def other_test_size(root):
    for i, path in enumerate(sorted((root / "test").glob("*/*.png"))):
        save(path, pixels_of(9, (9, 7, 3))[i])


@pytest.mark.parametrize(
    ("damage", "where", "words"),
    [
        (empty_class, "train", "has no images of yak"),
        (unknown_class, "test", "has classes that .*/train lacks: Cat; rename or remove them"),
        (broken, "train/cat/001.png", r"holds no readable image \(13 bytes\); replace or remove it"),
        (nothing, "train/owl/012.png", r"holds no readable image \(0 bytes\)"),
        (dangling, "train/cat/link.png", "cannot be read"),
        (single, "train", "class 'dog' has one image"),
        (other_size, "train/dog/zzz.png", r"is 7x9 pixels, the first image 5x6; set data\.image_size"),
        (other_test_size, "", r"differ in size .*set data\.image_size"),
        (
            lambda root: shutil.rmtree(root / "test"),
            "",
            "holds no test images: a folder for each class in one of test, val",
        ),
        (
            lambda root: shutil.rmtree(root / "train"),
            "",
            "holds no train folder with a folder for each class; give the folder",
        ),
        (lambda root: [shutil.rmtree(p) for p in (root / "test").iterdir()], "", "holds no test images"),
    ],
)
def test_damage_is_named_with_its_place(damage, where, words, tmp_path):
    tree(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path)
    assert [p.where for p in caught.value.problems] == [str(tmp_path / where)]


def test_mistakes_of_both_splits_come_together(tmp_path):
    tree(tmp_path)
    broken(tmp_path)
    nothing(tmp_path)
    unknown_class(tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert [p.where.removeprefix(f"{tmp_path}/") for p in caught.value.problems] == [
        "train/cat/001.png",
        "train/owl/012.png",
        "test",
    ]


def test_image_size_takes_images_of_any_size(tmp_path):
    tree(tmp_path)
    other_size(tmp_path)
    other_test_size(tmp_path)
    splits = load(tmp_path, image_size=4)
    assert splits.train.shape == splits.test.shape == (3, 4, 4)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.path: .*/gone is not a folder"):
        load(tmp_path / "gone")


def test_tiny_imagenet_arrives_with_names(tmp_path):
    tiny(tmp_path)
    splits = load(tmp_path, "tiny-imagenet")
    assert splits.train.classes == ("crane (n01)", "crane (n02)", "goldfish")
    assert splits.train.labels_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.test.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    stored = [np.asarray(Image.open(tmp_path / f"val/images/val_{i}.JPEG")) for i in (1, 4, 2, 5, 0, 3)]
    assert torch.equal(splits.test.images_NCHW, torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2))
    stored = np.asarray(Image.open(tmp_path / "train/n01/images/n01_0.JPEG"))
    assert (splits.train.images_NCHW[0].numpy() == stored.transpose(2, 0, 1)).all()


def test_tiny_imagenet_without_names_and_with_grey_photographs(tmp_path):
    tiny(tmp_path, names=False)
    for path in [*tmp_path.glob("val/images/*"), *tmp_path.glob("train/n01/images/*")]:
        save(path, pixels_of(1, (8, 8))[0])
    splits = load(tmp_path, "tiny-imagenet", train_limit=3)
    assert splits.train.classes == ("n01", "n02", "n03")
    assert splits.train.shape == splits.test.shape == (3, 8, 8)


def annotate(root, line):
    with (root / "val/val_annotations.txt").open("a") as file:
        file.write(line)


def cut_annotations(root):
    path = root / "val/val_annotations.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))


@pytest.mark.parametrize(
    ("damage", "where", "words"),
    [
        (
            lambda r: annotate(r, "val_0.JPEG\tn77\t0\n"),
            "val/val_annotations.txt",
            "line 7 gives val_0.JPEG the class 'n77'",
        ),
        (
            lambda r: annotate(r, "val_9.JPEG\tn01\t0\n"),
            "val/val_annotations.txt",
            "line 7 names val_9.JPEG, which is not in",
        ),
        (
            lambda r: annotate(r, "val_0.JPEG\tn01\t0\n"),
            "val/val_annotations.txt",
            "line 7 gives val_0.JPEG a second class",
        ),
        (lambda r: annotate(r, "garbage\n"), "val/val_annotations.txt", "line 7 gives garbage the class ''"),
        (lambda r: annotate(r, "x\ty\n" * 9), "val/val_annotations.txt", r"line 11 .*\(4 more lines are wrong\)"),
        (cut_annotations, "val/val_annotations.txt", "has no line for val_4.JPEG, val_5.JPEG"),
        (lambda r: (r / "val/val_annotations.txt").unlink(), "val/val_annotations.txt", "cannot be read"),
        (lambda r: shutil.rmtree(r / "val/images"), "val/images", "cannot be read"),
        (lambda r: (r / "wnids.txt").unlink(), "wnids.txt", r"cannot be read \(No such file"),
        (lambda r: (r / "wnids.txt").write_text("\n"), "wnids.txt", "names no classes"),
        (lambda r: (r / "words.txt").write_bytes(b"\xff\xfe"), "words.txt", "not text in UTF-8"),
        (lambda r: shutil.rmtree(r / "train/n02"), "train", "has no images of n02"),
        (lambda r: (r / "train/n04").mkdir(), "train", "has classes that wnids.txt does not list: n04"),
        (lambda r: shutil.rmtree(r / "train"), "", "holds no train folder"),
    ],
)
def test_damage_to_tiny_imagenet_is_named_with_its_place(damage, where, words, tmp_path):
    tiny(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path, "tiny-imagenet")
    assert {p.where for p in caught.value.problems} == {str(tmp_path / where)}


def test_tiny_imagenet_given_as_a_tree_says_what_to_do(tmp_path):
    tiny(tmp_path)
    with pytest.raises(UserError, match="folders further down are not searched"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(UserError, match=r"use data\.name tiny-imagenet"):
        load(tmp_path)
