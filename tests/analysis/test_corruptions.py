"""Corruptions made here, and the published files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from afa_dist.analysis.cifar_c import CifarC
from afa_dist.analysis.corruptions import FAMILIES, STRENGTHS, corrupt, corruptions_for
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import UserError


def pictures(count, channels, side, seed=0):
    """Smooth ones: on noise, some blurs change nothing more."""
    coarse = torch.rand(count, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)


SIZES = {"digits": (1, 8), "grey 28": (1, 28), "cifar": (3, 32), "small": (3, 8), "large": (3, 96)}
ALL = [name for members in FAMILIES.values() for name in members]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ALL)
def test_stronger_is_worse_within_the_pixel_range_and_the_same_each_time(digits, name, size):
    channels, side = SIZES[size]
    if name not in {name for members in corruptions_for(channels).values() for name in members}:
        assert (name, channels) == ("saturate", 1)
        return
    x = digits.test.images_NCHW[:12].float() / 255 if size == "digits" else pictures(12, channels, side)
    indices = list(range(100, 112))
    before = torch.random.get_rng_state()
    made = {strength: corrupt(x, name, strength, 0, indices) for strength in STRENGTHS}
    assert torch.equal(before, torch.random.get_rng_state())
    for changed in made.values():
        assert changed.shape == x.shape and changed.dtype == x.dtype
        assert changed.min() >= 0 and changed.max() <= 1 and torch.isfinite(changed).all()
    mean = {strength: float((changed - x).abs().mean()) for strength, changed in made.items()}
    assert 0.001 < mean[1] < mean[5], mean
    torch.manual_seed(77)
    assert torch.equal(made[3], corrupt(x, name, 3, 0, indices))
    # An image's corruption does not depend on which others are corrupted with it.
    alone = corrupt(x[5:7], name, 3, 0, indices[5:7])
    assert torch.allclose(alone, made[3][5:7], atol=1e-6)


def test_random_corruptions_depend_on_seed_and_image():
    x = pictures(1, 3, 16).repeat(2, 1, 1, 1)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "motion_blur", "fog", "snow"):
        one = corrupt(x, name, 5, 0, [1, 2])
        assert not torch.equal(one[0], one[1]), name
        assert not torch.equal(one, corrupt(x, name, 5, 1, [1, 2])), name


@pytest.fixture
def published(digits, tmp_path):
    """A folder like CIFAR-C's, of digits."""
    test = digits.test
    pixels = test.images_NCHW.numpy().transpose(0, 2, 3, 1)
    for shift, name in enumerate(("gaussian_noise", "frost", "elastic_transform")):
        np.save(tmp_path / f"{name}.npy", np.concatenate([pixels // (strength + shift) for strength in range(1, 6)]))
    np.save(tmp_path / "labels.npy", np.tile(test.labels_N.numpy(), 5))
    return tmp_path


def test_published_files_are_read_in_their_order(digits, published):
    folder = CifarC(published, digits.test)
    assert folder.families == {
        "noise": ["gaussian_noise"],
        "blur": [],
        "weather": ["frost"],
        "digital": ["elastic_transform"],
    }
    found = folder.images("frost", 4, [3, 200])
    assert torch.equal(found * 255, (digits.test.images_NCHW[[3, 200]] // 5).float())
    before = folder.fingerprint()
    np.save(published / "fog.npy", np.load(published / "frost.npy"))
    assert CifarC(published, digits.test).fingerprint() != before


def test_all_that_is_wrong_with_a_folder_is_said_at_once(digits, published):
    np.save(published / "labels.npy", np.zeros(1800, np.int64))
    np.save(published / "frost.npy", np.zeros((1800, 8, 8, 3), np.uint8))
    np.save(published / "fog.npy", np.array([{}], dtype=object), allow_pickle=True)
    (published / "snow.npy").write_bytes(b"nothing")
    np.savez(published / "x.npz", a=np.zeros(3))
    (published / "x.npz").rename(published / "contrast.npy")
    with pytest.raises(UserError) as caught:
        CifarC(published, digits.test)
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    for words in (
        "labels.npy does not hold the labels of the 360",
        "expected uint8 (1800, 8, 8, 1)",
        "fog.npy cannot",
        "snow.npy",
    ):
        assert words in text
    empty = ImageSet(digits.test.images_NCHW, digits.test.labels_N, digits.test.classes)
    with pytest.raises(UserError, match="not a folder"):
        CifarC(published / "nowhere", empty)
    with pytest.raises(UserError, match=r"holds no corruption.*"):
        (published / "none").mkdir()
        CifarC(published / "none", empty)
