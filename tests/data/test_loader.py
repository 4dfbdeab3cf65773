"""Which images a step sees, and what augmentation does to them."""

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.data.ahead import Ahead
from afa_dist.data.augment import Augmentation, crop
from afa_dist.data.image_set import ImageSet, choose_evenly, hold_out
from afa_dist.data.loader import Loader
from afa_dist.distributed import SlicedRandom, World

ROOT = Path(__file__).parents[2]

DATA = ImageSet(
    torch.randint(0, 256, (200, 1, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(200) % 7,
    tuple("abcdefg"),
)


def loader(world=World(), seed=0, batch_size=64):
    return Loader(DATA, batch_size, seed, Augmentation(crop_padding=1, flip=True), world)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_one_global_batch(size):
    for step in (0, 2, 3, 7):
        whole = loader().batch(step)
        parts = [loader(World(rank, size)).batch(step) for rank in range(size)]
        assert torch.equal(torch.cat([p.images_BCHW for p in parts]), whole.images_BCHW)
        assert torch.equal(torch.cat([p.labels_B for p in parts]), whole.labels_B)
        assert [p.start for p in parts] == [rank * 64 // size for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2])
def test_two_views_are_two_draws_of_the_same_images(size):
    def two(world=World()):
        return dataclasses.replace(loader(world), two_views=True)

    parts = [two(World(rank, size)).batch(3) for rank in range(size)]
    first = torch.cat([part.images_BCHW for part in parts])
    second = torch.cat([part.other_view for part in parts])
    single = loader().batch(3)
    assert single.second_BCHW is None and torch.equal(single.other_view, single.images_BCHW)
    assert torch.equal(first, single.images_BCHW)
    assert torch.equal(second, two().batch(3).second_BCHW)
    moved = (first != second).flatten(1).any(dim=1)
    assert 0.5 < moved.float().mean() < 1  # of 18 augmentations of an image some coincide
    plain = dataclasses.replace(two(), augmentation=Augmentation()).batch(3)
    assert torch.equal(plain.images_BCHW, plain.other_view)  # the same images, then


def test_an_epoch_sees_no_image_twice_and_the_next_has_another_order():
    first = np.concatenate([loader().indices(step) for step in range(3)])
    second = np.concatenate([loader().indices(step) for step in range(3, 6)])
    assert len(set(first)) == len(first) == 192
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.concatenate([loader(seed=1).indices(step) for step in range(3)]))


def test_crop_equals_slicing():
    images = torch.rand(6, 2, 9, 8)
    offsets = torch.tensor([[0, 0], [4, 3], [2, 1], [0, 3], [4, 0], [1, 2]])
    want = torch.stack([im[:, r : r + 5, c : c + 5] for im, (r, c) in zip(images, offsets.tolist(), strict=True)])
    assert torch.equal(crop(images, offsets, 5, 5), want)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(("padding", "flip"), [(3, True), (3, False), (0, True)])
def test_windows_are_those_that_are_gathered(dtype, padding, flip):
    """The way of CPUs against that of GPUs, which takes all images at once."""
    x = (torch.rand(33, 3, 7, 5) * 255).to(dtype)
    got = Augmentation(padding, flip=flip)(x, SlicedRandom("t", 0, start=0, count=33))
    random = SlicedRandom("t", 0, start=0, count=33)
    want = x
    if padding:
        offsets = random.integers(0, 2 * padding + 1, 2)
        want = crop(torch.nn.functional.pad(want, [padding] * 4), offsets, 7, 5)
    if flip:
        want = torch.where((random.uniform() < 0.5)[:, None, None, None], want.flip(-1), want)
    assert torch.equal(got, want) and got.dtype == dtype and got.is_contiguous()


def test_augmentation_is_drawn_per_image_and_covers_all_shifts():
    x = torch.zeros(512, 1, 5, 5)
    x[:, :, 2, 1] = 1
    out = Augmentation(crop_padding=1, flip=True)(x, SlicedRandom("t", 0, start=0, count=512))
    places = out.flatten(1).argmax(1)
    rows, columns = places // 5, places % 5
    assert set(rows.tolist()) == {1, 2, 3}
    assert set(columns.tolist()) == {0, 1, 2, 3, 4}  # column 1 +- 1, and mirrored 3 +- 1
    assert (out.sum(dim=(1, 2, 3)) == 1).all()
    assert Augmentation()(x, SlicedRandom("t", 0, start=0, count=512)) is x


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), data=st.data())
def test_choose_evenly_takes_turns(labels, data):
    count = data.draw(st.integers(0, len(labels)))
    labels = np.array(labels)
    chosen = choose_evenly(labels, count, seed=3)
    assert len(chosen) == count
    assert len(set(chosen.tolist())) == count
    taken = np.bincount(labels[chosen], minlength=5)
    have = np.bincount(labels, minlength=5)
    for a in range(5):
        for b in range(5):
            if taken[a] < have[a]:  # class a could give more, so no class may be more than one ahead of it
                assert taken[b] <= taken[a] + 1


def test_held_out_images_are_not_trained_on(digits):
    def rows(part):
        return {bytes(image.numpy().tobytes()) for image in part.images_NCHW}

    assert len(digits.train) + len(digits.held_out) == 1437
    assert len(digits.test) == 360
    assert not rows(digits.train) & rows(digits.test)
    assert not rows(digits.train) & rows(digits.held_out)
    fitted, held = hold_out(DATA, 21)
    assert held.labels_N.bincount().tolist() == [3] * 7
    assert len(fitted) == 179


def test_pixel_statistics_are_exact():
    mean, std = DATA.pixel_statistics()
    pixels = DATA.images_NCHW.double() / 255
    assert mean[0] == pytest.approx(pixels.mean().item(), abs=1e-6)
    assert std[0] == pytest.approx(pixels.std(correction=0).item(), abs=1e-6)


def test_what_is_fetched_ahead_is_what_would_have_been_fetched():
    """In order, out of order, repeated; a failure is that of the step that failed, and the next step works."""
    fetched = []

    def fetch(step):
        fetched.append(step)
        if step == 5:
            raise OSError("step 5")
        return step * 10

    ahead = Ahead(fetch)
    assert [ahead(step) for step in (0, 1, 2, 2, 7, 8, 3, 4)] == [0, 10, 20, 20, 70, 80, 30, 40]
    with pytest.raises(OSError, match="step 5"):
        ahead(5)
    assert ahead(6) == 60
    assert fetched[:3] == [0, 1, 2]  # 1 and 2 were on their way when they were asked for


def test_the_next_step_is_fetched_without_being_asked_for():
    waiting = threading.Event()
    ahead = Ahead(lambda step: waiting.set() if step == 1 else None)
    ahead(0)
    assert waiting.wait(timeout=10)


ENDS = """
import sys, threading, time, torch
from afa_dist.data import ahead
seconds, ahead.EXIT_SECONDS = map(float, sys.argv[1:])
began = threading.Event()
def fetch(step):
    if step:
        began.set()
        time.sleep(seconds)
        for _ in range(200):
            torch.rand(300, 300).sort()
images = ahead.Ahead(fetch)
images(0)
began.wait()
"""


@pytest.mark.parametrize(("takes", "waits"), [("0", "5"), ("600", "0.1")])
def test_a_process_that_ends_while_more_is_fetched_ends_well_and_soon(takes, waits):
    assert subprocess.run([sys.executable, "-c", ENDS, takes, waits], cwd=ROOT, timeout=60).returncode == 0


def test_images_elsewhere_than_on_the_device_are_fetched_ahead():
    elsewhere = loader(World(device=torch.device("meta")))
    assert isinstance(elsewhere._fetch, Ahead)
    assert not isinstance(loader()._fetch, Ahead)


def test_a_loader_that_fetches_ahead_gives_the_same_batches():
    plain, ahead = loader(), loader()
    ahead.__dict__["_fetch"] = Ahead(ahead._rows)  # as on a GPU that cannot hold the images
    for step in (0, 1, 2, 7, 3):
        for a, b in zip(plain.batch(step), ahead.batch(step), strict=True):
            assert a is b is None or a == b if not isinstance(a, torch.Tensor) else torch.equal(a, b)
