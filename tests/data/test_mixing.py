"""Real and generated images in one batch: exact shares, nothing twice, the same for any number of workers."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.data.augment import Augmentation
from afa_dist.data.image_set import ImageSet
from afa_dist.data.loader import Loader
from afa_dist.data.mixing import Mixture
from afa_dist.data.order import shuffled
from afa_dist.distributed import SLICE, World, derive_seed

SHARES = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0, 2 / 3, 0.7000000000000001]) | st.floats(0.01, 0.99)


def naive_rows(mixture, steps, order_of):
    """Place by place: the share so far decides, and each kind is taken in its own order."""
    size, share = mixture.batch_size, mixture.share
    rows, drawn = [], 0
    for epoch in range(-(-steps // mixture.steps_per_epoch)):
        owed, taken = Fraction(0), 0
        for _ in range(mixture.steps_per_epoch * size):
            owed += share
            if owed >= 1:
                owed -= 1
                turn, place = divmod(drawn, mixture.generated)
                rows.append(-1 - order_of("generated", turn, mixture.generated)[place])
                drawn += 1
            else:
                rows.append(order_of("order", epoch, mixture.real)[taken])
                taken += 1
    return np.array(rows[: steps * size]).reshape(steps, size)


@settings(max_examples=60, deadline=None)
@given(
    real=st.integers(20, 90),
    generated=st.integers(1, 70),
    size=st.integers(2, 20),
    share=SHARES,
    seed=st.integers(0, 3),
)
def test_rows_are_those_that_the_shares_so_far_demand(real, generated, size, share, seed):
    mixture = Mixture.of(real, generated, size, share)
    steps = 2 * mixture.steps_per_epoch + 1
    want = naive_rows(mixture, steps, lambda what, turn, images: shuffled(what, seed, turn, images, np.arange(images)))
    got = np.stack([mixture.rows(seed, step) for step in range(steps)])
    assert np.array_equal(got, want)


@settings(max_examples=60, deadline=None)
@given(real=st.integers(20, 200), generated=st.integers(1, 50), size=st.integers(2, 20), share=SHARES)
def test_an_epoch_is_a_pass_over_the_real_images_with_the_exact_share(real, generated, size, share):
    mixture = Mixture.of(real, generated, size, share)
    exact = Fraction(repr(share))
    for epoch in (0, 3):
        steps = range(epoch * mixture.steps_per_epoch, (epoch + 1) * mixture.steps_per_epoch)
        rows = np.stack([mixture.rows(0, step) for step in steps])
        places = rows.size
        assert (rows < 0).sum() == int(places * exact)  # floor
        for batch in rows:
            assert abs((batch < 0).sum() - size * exact) < 1
        own = rows[rows >= 0]
        assert len(set(own.tolist())) == len(own) <= real
        if share < 1:
            assert (places + size) - int((places + size) * exact) > real  # not one more batch would have been filled
        else:
            assert places <= real < places + size


def test_shares_with_many_digits_and_large_sets_stay_exact():
    mixture = Mixture.of(50_000, 1_000_000, 512, 2 / 3)
    rows = np.concatenate([mixture.rows(0, step) for step in range(mixture.steps_per_epoch)])
    own = rows[rows >= 0]
    assert len(set(own.tolist())) == len(own) > 49_800
    assert (rows < 0).sum() == int(len(rows) * Fraction(repr(2 / 3)))
    assert len(set(rows[rows < 0].tolist())) == (rows < 0).sum()


def test_generated_images_are_all_seen_before_one_is_seen_again():
    mixture = Mixture.of(60, 25, 16, 0.7)
    rows = np.concatenate([mixture.rows(0, step) for step in range(3 * mixture.steps_per_epoch)])
    drawn = -1 - rows[rows < 0]
    turns = [drawn[start : start + 25] for start in range(0, len(drawn) - 24, 25)]
    assert len(turns) > 5 and all(sorted(turn) == list(range(25)) for turn in turns)
    assert not np.array_equal(turns[0], turns[1])


def test_without_generated_images_nothing_changes():
    """The order of real images alone is that of earlier versions."""
    plain = Mixture.of(200, 0, 64, 0.7)
    assert plain.steps_per_epoch == 3
    second = np.random.Generator(np.random.Philox(derive_seed("order", 0, 1))).permutation(200)
    assert np.array_equal(plain.rows(0, 4), second[64:128])


def images(count, value):
    """Real images are even, generated ones odd; the label is known from the pixel as well."""
    labels = torch.arange(count) % 5
    pixels = (labels * 2 + value).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous()
    return ImageSet(pixels, labels, tuple("abcde"))


@pytest.mark.parametrize("share", [0.25, 0.7])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_one_batch_with_the_exact_share(workers, share):
    size = 6 * SLICE
    real, generated = images(10 * size, 0), images(size + 7, 1)

    def loader(world):
        return Loader(real, size, 0, Augmentation(), world, generated=generated, share=share)

    alone = loader(World())
    counted = 0
    for step in range(alone.steps_per_epoch):
        whole = alone.batch(step)
        parts = [loader(World(rank, workers)).batch(step) for rank in range(workers)]
        assert torch.equal(torch.cat([part.images_BCHW for part in parts]), whole.images_BCHW)
        for part in parts:
            assert torch.equal(part.labels_G, whole.labels_G) and torch.equal(part.generated_G, whole.generated_G)
        bytes_G = (whole.images_BCHW[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(bytes_G % 2 == 1, whole.generated_G)
        assert torch.equal(bytes_G // 2, whole.labels_G)
        assert abs(whole.generated_G.sum() - size * share) < 1
        counted += int(whole.generated_G.sum())
    assert counted == int(alone.steps_per_epoch * size * Fraction(str(share)))
