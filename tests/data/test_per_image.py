"""Random crops, colours and policies: torchvision's own, image by image, whoever makes them."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from afa_dist.config import DataConfig
from afa_dist.config.fields import to_mapping
from afa_dist.data.augment import Augmentation
from afa_dist.data.decode import open_image, to_square
from afa_dist.data.image_set import ImageSet
from afa_dist.data.loader import Loader
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.per_image import PerImage
from afa_dist.data.prepared import SetRecord, SplitRecord, load_prepared, write_labels
from afa_dist.data.shard import write_encoded
from afa_dist.distributed import World
from afa_dist.distributed.randomness import derive_seed
from afa_dist.errors import UserError
from afa_dist.files import sha256, write_json

ALL = {"resized_crop": 0.2, "color_jitter": (0.4, 0.4, 0.4), "auto_augment": "randaugment"}


def photographs(count):
    """Smooth images of many sizes, as JPEG."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        file = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((40 + number % 7, 30 + number % 5), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    labels = np.arange(50, dtype=np.int32) % 4
    files = [folder / "train-00000.arrow", folder / "train-labels.arrow"]
    write_encoded(files[0], photographs(50), labels)
    write_labels(files[1], labels, 4)
    listed = [ShardFile(path.name, 50, path.stat().st_size, sha256(path)) for path in files]
    part = SplitRecord(50, (13, 13, 12, 12), listed[1], (listed[0],))
    record = SetRecord(tuple("abcd"), "arrow", "encoded", 3, None, (0.5,) * 3, (0.2,) * 3, {"train": part})
    write_json(folder / "dataset.json", record.to_mapping())
    return folder


def config_of(folder):
    return DataConfig(name="prepared", path=str(folder), image_size=32)


def loader(data, world=World(), **options):
    augmentation = Augmentation.of(DataConfig(name="folder", path=".", flip=True, **options))
    return Loader(data, 16, 3, augmentation, world, two_views=True)


@pytest.mark.parametrize("policy", ["none", "imagenet", "cifar10", "svhn", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("colour", [True, False])
def test_images_come_out_as_from_torchvision_alone(policy, colour):
    """Its transforms draw from torch's one generator: seeded as ours, it gives the same; and ours leaves it alone."""
    what = PerImage(0.3, (0.4, 0.4, 0.4, 0.1), policy)
    steps = [v2.RandomResizedCrop((24, 20), scale=(0.3, 1.0)), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    named = {"randaugment": v2.RandAugment(2, 9), "trivialaugment": v2.TrivialAugmentWide(), "none": v2.Identity()}
    steps.append(named[policy] if policy in named else v2.AutoAugment(v2.AutoAugmentPolicy(policy)))
    images = [open_image(data) if colour else open_image(data).convert("L") for data in photographs(12)]
    seen = set()
    for seed, image in enumerate(images * 3):
        torch.manual_seed(99)
        before = torch.get_rng_state()
        got = np.asarray(what(image, 24, 20, torch.Generator().manual_seed(seed)))
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(seed)
        want = image
        for step in steps:
            want = step(want)
        assert np.array_equal(got, np.asarray(want))
        assert got.shape == ((24, 20, 3) if colour else (24, 20))
        seen.add(got.tobytes())
    assert len(seen) > 30


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kind", ["encoded", "in memory", "mixed"])
def test_ranks_share_one_global_batch(folder, kind, size):
    encoded = load_prepared(config_of(folder), "train")
    in_memory = dataclasses.replace(encoded, images_NCHW=encoded.in_memory()[0])
    mix = {"generated": in_memory.subset(np.arange(20)), "share": 0.5} if kind == "mixed" else {}

    def of(world):
        made = loader(encoded if kind != "in memory" else in_memory, world, **ALL)
        return dataclasses.replace(made, **mix)

    for step in (0, 5):
        whole = of(World()).batch(step)
        parts = [of(World(rank, size)).batch(step) for rank in range(size)]
        assert torch.equal(torch.cat([part.images_BCHW for part in parts]), whole.images_BCHW)
        assert torch.equal(torch.cat([part.second_BCHW for part in parts]), whole.second_BCHW)
        assert (whole.images_BCHW != whole.second_BCHW).flatten(1).any(1).all()
        again = of(World())
        again.batch(step - 1 if step else 7)
        assert torch.equal(again.batch(step).images_BCHW, whole.images_BCHW)


def test_windows_are_cut_from_whole_images_and_two_sets_are_one_where_nothing_is_cut(folder):
    encoded = load_prepared(config_of(folder), "train")
    rows = torch.tensor([7, 3, 40])
    what = PerImage(0.2)
    got = what.views(encoded.images_NCHW, rows, ["a"], lambda place: (place,))[0]
    for place, row in enumerate(rows.tolist()):
        image = open_image(photographs(50)[row])
        want = what(image, 32, 32, torch.Generator().manual_seed(derive_seed("each", "a", place)))
        assert np.array_equal(got[place].numpy(), np.asarray(want).transpose(2, 0, 1))
        assert min(to_square(image, 32).size) == 32 and max(image.size) > 32
    colours = PerImage(0, (0.4,))
    in_memory = encoded.in_memory()[0]
    one, other = (colours.views(x, rows, ["a"], lambda place: (place,))[0] for x in (encoded.images_NCHW, in_memory))
    assert torch.equal(one, other) and not torch.equal(one, in_memory[rows])


def test_nothing_is_asked_for_unless_it_is_and_mistakes_are_named():
    assert PerImage.of(DataConfig()) is None and PerImage.of(DataConfig(color_jitter=(0.0, 0.0))) is None
    digits = ImageSet(torch.zeros(32, 1, 8, 8, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64), ("a",))
    assert loader(digits, auto_augment="svhn").batch(0).images_BCHW.shape == (16, 1, 8, 8)
    with pytest.raises(UserError) as caught:
        DataConfig(crop_padding=4, resized_crop=0.1, color_jitter=(0.1, 0.1, 0.1, 0.6))
    assert [problem.where for problem in caught.value.problems] == ["crop_padding", "color_jitter"]
    with pytest.raises(UserError, match="randaugment_ops: is for auto_augment randaugment"):
        DataConfig(randaugment_ops=3)
    recorded = to_mapping(DataConfig(color_jitter=(0.1, 0.1, 0.1, 0.1)))
    assert isinstance(recorded["color_jitter"], list) and to_mapping(DataConfig(**recorded)) == recorded


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(folder, threads):
    encoded = load_prepared(config_of(folder), "train")
    sets = encoded, dataclasses.replace(encoded, images_NCHW=encoded.in_memory()[0])
    want = [loader(data, **ALL).batch(2).images_BCHW for data in sets]
    torch.set_num_threads(threads)
    assert all(torch.equal(loader(data, **ALL).batch(2).images_BCHW, w) for data, w in zip(sets, want, strict=True))
