"""Prepared sets read as what they were made from, and never give a byte that has changed."""

import copy
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from afa_dist.config import DataConfig
from afa_dist.data import image_set
from afa_dist.data.augment import Augmentation
from afa_dist.data.catalogue import load_splits
from afa_dist.data.image_set import ImageSet, choose_evenly
from afa_dist.data.loader import Loader
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.prepared import SetRecord, SplitRecord, load_prepared, write_labels
from afa_dist.data.shard import checksums, write_encoded, write_raw
from afa_dist.distributed import World
from afa_dist.errors import UserError
from afa_dist.files import sha256, write_json


def jpeg(image_CHW):
    file = io.BytesIO()
    Image.fromarray(image_CHW.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
    return file.getvalue()


def images_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 6, 5), np.uint8)


def write_set(folder, counts, shard=7, encoded=False):
    """A set of random images; returns them and their labels, by split."""
    folder.mkdir(exist_ok=True)
    made, splits = {}, {}
    for seed, (split, count) in enumerate(counts.items()):
        x, y = images_of(count, seed), np.random.default_rng(9).integers(0, 4, count).astype(np.int32)
        made[split] = x, y
        files = []
        for number, start in enumerate(range(0, count, shard)):
            path = folder / f"{split}-{number:05d}.arrow"
            part = slice(start, start + shard)
            if encoded:
                write_encoded(path, [jpeg(image) for image in x[part]], y[part])
            else:
                write_raw(path, x[part], y[part])
            files.append(ShardFile(path.name, len(y[part]), path.stat().st_size, sha256(path)))
        path = folder / f"{split}-labels.arrow"
        write_labels(path, y, 4)
        labels = ShardFile(path.name, count, path.stat().st_size, sha256(path))
        splits[split] = SplitRecord(count, tuple(np.bincount(y, minlength=4).tolist()), labels, tuple(files))
    record = SetRecord(
        tuple("abcd"), "arrow", "encoded" if encoded else "raw", 3, (3, 6, 5), (0.5,) * 3, (0.25,) * 3, splits
    )
    write_json(folder / "dataset.json", record.to_mapping())
    return made


def config_of(folder, **options):
    return DataConfig(name="prepared", path=str(folder), **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return folder, write_set(folder, {"train": 60, "test": 20})


def test_rows_are_those_that_were_written(written):
    folder, made = written
    found = load_prepared(config_of(folder), "train")
    x, y = made["train"]
    assert found.shape == (3, 6, 5) and len(found) == 60 and found.labels_N.tolist() == y.tolist()
    for rows in ([0], [59, 0, 7, 6, 7], list(range(60))):
        assert np.array_equal(found.images_NCHW[torch.tensor(rows)].numpy(), x[rows])
    assert np.array_equal(found.images_NCHW[3:33].numpy(), x[3:33])
    again = copy.deepcopy(found)
    assert np.array_equal(again.in_memory()[0].numpy(), x)


def test_splits_and_batches_are_those_of_images_in_memory(written):
    folder, made = written
    config = config_of(folder, held_out=11, crop_padding=1, flip=True)
    mapped = load_splits(config)
    whole = {
        name: ImageSet(torch.from_numpy(x), torch.from_numpy(y).long(), tuple("abcd")) for name, (x, y) in made.items()
    }
    fitted, held_out = image_set.hold_out(whole["train"], 11)
    for ours, theirs in ((mapped.train, fitted), (mapped.held_out, held_out), (mapped.test, whole["test"])):
        assert torch.equal(ours.in_memory()[0], theirs.images_NCHW) and torch.equal(ours.labels_N, theirs.labels_N)
    loaders = [Loader(part, 12, 3, Augmentation(1, flip=True), World()) for part in (mapped.train, fitted)]
    for step in (0, 1, 5, 2, 1000):
        ours, theirs = (loader.batch(step) for loader in loaders)
        assert torch.equal(ours.images_BCHW, theirs.images_BCHW) and torch.equal(ours.labels_G, theirs.labels_G)


def test_encoded_images_are_decoded_to_the_size_asked_for(tmp_path):
    made = write_set(tmp_path, {"train": 30, "test": 8}, encoded=True)
    found = load_prepared(config_of(tmp_path), "train")
    wanted = np.stack([np.asarray(Image.open(io.BytesIO(jpeg(image)))).transpose(2, 0, 1) for image in made["train"][0]])
    assert np.array_equal(found.in_memory()[0].numpy(), wanted)
    resized = load_prepared(config_of(tmp_path, image_size=4), "train")
    assert resized.shape == (3, 4, 4) and resized.images_NCHW[:2].shape == (2, 3, 4, 4)
    assert resized.fingerprint() != found.fingerprint()
    record = json.loads((tmp_path / "dataset.json").read_text())
    write_json(tmp_path / "dataset.json", {**record, "shape": None})
    with pytest.raises(UserError, match=r"image_size: the images of .* have many sizes"):
        load_prepared(config_of(tmp_path), "train")


def test_pixels_are_not_brought_to_another_size_in_silence(written):
    folder, _ = written
    with pytest.raises(UserError, match=r"image_size: 4: .* holds pixels of 6 x 5; leave it out"):
        load_prepared(config_of(folder, image_size=4), "train")


def test_fingerprints_tell_sets_and_parts_apart(written, tmp_path):
    folder, _ = written
    first = load_prepared(config_of(folder), "train")
    assert first.fingerprint() == load_prepared(config_of(folder), "train").fingerprint()
    parts = [first, first.subset(np.arange(60)[:59]), first.without(np.array([4])), first.without(np.array([5]))]
    assert len({part.fingerprint() for part in parts}) == 4
    write_set(tmp_path, {"train": 61, "test": 20})
    assert load_prepared(config_of(tmp_path), "train").fingerprint() != first.fingerprint()


@pytest.mark.parametrize("place", ["pixels", "label", "checksum"])
def test_a_flipped_byte_is_found_when_its_row_is_read(tmp_path, place):
    made = write_set(tmp_path, {"train": 30, "test": 8})
    path = tmp_path / "train-00002.arrow"
    content = bytearray(path.read_bytes())
    x, y = made["train"]
    needle = {
        "pixels": x[17].tobytes(),
        "label": y[14:21].tobytes(),
        "checksum": checksums(x[14:21], y[14:21]).tobytes(),
    }[place]
    assert content.count(needle) == 1
    content[content.find(needle)] ^= 4
    path.write_bytes(content)
    found = load_prepared(config_of(tmp_path), "train")
    with pytest.raises(UserError, match=r"train-00002\.arrow (is|has labels that are) not what was written"):
        found.in_memory()
    assert np.array_equal(found.images_NCHW[:14].numpy(), x[:14])


def test_files_that_are_missing_cut_off_too_many_or_others_are_named(tmp_path):
    folder = tmp_path / "set"
    write_set(folder, {"train": 30, "test": 8})

    def refused(words):
        with pytest.raises(UserError, match=words):
            load_prepared(config_of(folder), "train").in_memory()

    shard = folder / "train-00001.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-40])
    refused(r"train-00001.arrow has \d+ bytes, not \d+: it was cut off")
    shard.unlink()
    refused(r"lacks train-00001.arrow of its 9 files")
    shard.write_bytes(whole[:8] + b"\0" * (len(whole) - 8))
    refused("train-00001.arrow is not a whole Arrow file")
    write_raw(folder / "aside.arrow", images_of(7)[:, :1], np.zeros(7))
    refused("holds aside.arrow, which its dataset.json does not know")
    (folder / "aside.arrow").unlink()
    shard.write_bytes(whole)
    labels = folder / "train-labels.arrow"
    content = bytearray(labels.read_bytes())
    content[len(content) // 2] ^= 1
    labels.write_bytes(content)
    refused("train-labels.arrow is not what was written")
    (folder / "dataset.json").write_text("{}")
    refused("is no record of a prepared set")
    (folder / "dataset.json").unlink()
    refused("holds no dataset.json, or is not there")


def test_a_file_with_another_schema_is_named(tmp_path):
    write_set(tmp_path, {"train": 30, "test": 8})
    path = tmp_path / "train-00001.arrow"
    write_raw(path, images_of(7)[:, :, :, :4], np.zeros(7))
    record = json.loads((tmp_path / "dataset.json").read_text())
    record["splits"]["train"]["files"][1]["bytes"] = path.stat().st_size
    write_json(tmp_path / "dataset.json", record)
    with pytest.raises(UserError, match=r"train-00001.arrow holds images of 3 x 6 x 4, not 3 x 6 x 5"):
        load_prepared(config_of(tmp_path), "train").in_memory()


def test_a_few_are_chosen_evenly_among_very_many(monkeypatch):
    """The way that is taken for millions, on fewer."""
    monkeypatch.setattr(image_set, "LISTED", 100)
    monkeypatch.setattr(image_set, "PORTION", 64)
    labels = np.random.default_rng(0).integers(0, 10, 5000).astype(np.int16)
    labels[labels == 9] = 0
    labels[4321] = 9
    chosen = choose_evenly(labels, 91, seed=0)
    assert len(set(chosen.tolist())) == 91 and np.array_equal(chosen, np.sort(chosen))
    assert np.bincount(labels[chosen], minlength=10).tolist() == [10] * 9 + [1]
    assert not np.array_equal(chosen, choose_evenly(labels, 91, seed=1))
    assert np.array_equal(choose_evenly(labels, 5000, seed=0), np.arange(5000))
    assert chosen.max() > 4000


def test_parts_of_parts(written):
    folder, made = written
    found = load_prepared(config_of(folder), "train")
    left_out = np.array([3, 0, 59, 31])
    rest = found.without(left_out)
    wanted = np.delete(made["train"][0], left_out, axis=0)
    assert np.array_equal(rest.in_memory()[0].numpy(), wanted)
    assert np.array_equal(rest.subset(np.array([5, 1])).in_memory()[0].numpy(), wanted[[5, 1]])
    assert np.array_equal(rest.without(np.array([0])).in_memory()[0].numpy(), wanted[1:])
    assert dataclasses.replace(rest).shape == (3, 6, 5)
