"""Figures equal those of loops in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.analysis.alignment import NEIGHBOURS, alignment, knn_accuracies, own_clean_cosine
from afa_dist.analysis.calibration import calibration
from afa_dist.analysis.embedding import planes
from afa_dist.analysis.lipschitz import local_lipschitz, radius_of, summary
from afa_dist.analysis.pretrained import fresh
from afa_dist.analysis.saliency import mean_cosine, saliency_maps
from afa_dist.attacks import Ball, attack_mode
from afa_dist.config import MethodConfig, ModelConfig, PretrainRun
from afa_dist.distributed import World
from afa_dist.models.build import DataShape
from afa_dist.training.job import make_step
from tests.analysis import naive


def features(count, seed, classes=4, dim=6, spread=0.6):
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=random)
    centres = torch.randn(classes, dim, generator=random)
    return F.normalize(centres[y] + spread * torch.randn(count, dim, generator=random), dim=1), y


@pytest.mark.parametrize("rows", [512, 7])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_alignment_of_clean_and_attacked_features(monkeypatch, rows, dtype, tolerance):
    monkeypatch.setattr("afa_dist.analysis.alignment.ROWS", rows)
    clean, y = features(40, 0)
    adv = F.normalize(clean + 0.5 * features(40, 1)[0], dim=1)
    y[0] = 4  # a class of one image: nothing of its own to be near to
    own = torch.arange(40)
    for z in (clean, adv):
        found = alignment(z.to(dtype), y, clean.to(dtype), y, own)
        assert found == pytest.approx(naive.alignment(z, y, clean, y, own), abs=tolerance)
    assert 0 < found["misaligned_means"] < 1 and 0 < found["misaligned_neighbours"] < 1
    assert own_clean_cosine(adv, clean) == pytest.approx(float((adv.double() * clean.double()).sum(1).mean()), abs=1e-6)


def test_alignment_knows_collapsed_and_swapped_features():
    y = torch.arange(20) % 2
    corners = torch.eye(2)
    aligned = alignment(corners[y], y, corners[y], y, torch.arange(20))
    assert aligned["within_distance"] == 0 and aligned["between_distance"] == pytest.approx(2**0.5)
    assert aligned["within_cosine"] == 1 and aligned["between_cosine"] == 0 and aligned["misaligned_means"] == 0
    swapped = alignment(corners[1 - y], y, corners[y], y, torch.arange(20))
    assert swapped["misaligned_means"] == swapped["misaligned_neighbours"] == 1


def test_nearest_training_images_vote():
    train, y_train = features(60, 2, spread=1.2)
    z, y = features(50, 3, spread=1.2)
    found = knn_accuracies(z, y, train, y_train)
    assert found == {f"knn{k}_acc": naive.knn_accuracy(z, y, train, y_train, k) for k in NEIGHBOURS}
    assert knn_accuracies(train, y_train, train[:3], y_train[:3]).keys() == found.keys()  # fewer than are asked for


@pytest.mark.parametrize("eps", [8 / 255, 0.2])
def test_local_lipschitzness_equals_one_image_at_a_time(eps):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    x, noise = torch.rand(5, 1, 4, 4).double(), torch.randn(5, 1, 4, 4).double()
    with attack_mode(net):
        found = local_lipschitz(net, x, noise, eps)
        alone = torch.cat([local_lipschitz(net, x[i : i + 1], noise[i : i + 1], eps) for i in range(5)])
    assert found.tolist() == pytest.approx(naive.local_lipschitz(net, x, noise, eps), rel=1e-9)
    assert torch.allclose(found, alone, rtol=1e-12)


def test_local_lipschitzness_of_a_linear_map_is_at_most_its_norm():
    random = torch.Generator().manual_seed(0)
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double()
    x, noise = torch.full((200, 1, 1, 2), 0.5).double(), torch.randn(200, 1, 1, 2, generator=random).double()
    found = local_lipschitz(lambda x: x.flatten(1) @ weight.T, x, noise, 0.1)
    # The operator norm from L-inf to L1, at the corner (1, -1). A local search finds it from some starts.
    assert (found <= 5.5 + 1e-9).all() and found.max() == pytest.approx(5.5, rel=1e-2)
    slope = local_lipschitz(lambda x: -7 * x.flatten(1), x[..., :1], noise[..., :1], 0.1)
    assert torch.allclose(slope, torch.full_like(slope, 7.0))
    assert radius_of(Ball("l2", 1.0), torch.zeros(1, 1, 5, 5)) == pytest.approx(0.2)
    assert summary(torch.arange(101.0)) == pytest.approx({"mean": 50, "median": 50, "p95": 95})


def test_calibration_error_equals_its_definition():
    random = torch.Generator().manual_seed(1)
    logits, y = 2 * torch.randn(200, 5, generator=random), torch.randint(5, (200,), generator=random)
    found = calibration(logits, y)
    assert found["ece"] == pytest.approx(naive.calibration_error(logits, y), abs=1e-12)
    assert len(found["bins"]) == 15 and sum(each["count"] for each in found["bins"]) == 200
    assert found["bins"][0]["confidence"] is None and found["bins"][0]["count"] == 0  # five classes: never below 0.2
    sure = calibration(torch.tensor([[40.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    assert sure["ece"] == pytest.approx(0.25) and sure["bins"][-1]["count"] == 4


def test_maps_of_a_linear_network_are_known():
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    net[1].weight.data = weight
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    with attack_mode(net):
        maps = saliency_maps(net, x, y, batch_size=7)
    assert torch.allclose(maps["gradient"].flatten(1), weight[y])
    assert torch.allclose(maps["integrated"].flatten(1), weight[y] * x.flatten(1), atol=1e-5)
    assert mean_cosine(maps["gradient"], -2 * maps["gradient"]) == pytest.approx(-1)


def test_points_in_the_plane_do_not_depend_on_the_process_and_fit_both():
    clean, _ = features(30, 0)
    adv, _ = features(30, 1)
    torch.manual_seed(1)
    one = planes(clean, adv)
    torch.manual_seed(2)
    other = planes(clean, adv)
    assert one.keys() == {"pca_N2", "pca_adv_N2", "tsne_N2", "tsne_adv_N2"}
    assert all(torch.equal(one[name], other[name]) and one[name].shape == (30, 2) for name in one)
    both = torch.cat([clean, adv]).double()
    centred = both - both.mean(0)
    variances = torch.linalg.svdvals(centred)[:2]
    points = torch.cat([one["pca_N2"], one["pca_adv_N2"]]).double()
    assert torch.allclose(points.norm(dim=0), variances, rtol=1e-5)


def test_the_untrained_network_is_the_one_that_training_begins_with():
    run = PretrainRun(seed=3, model=ModelConfig(width=8), method=MethodConfig())
    shape = DataShape(1, (0.3,), (0.4,), tuple("abc"), (8, 8))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    mine = fresh(run.model, run.method, shape, run.seed).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    theirs = make_step(run, shape, World()).net.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
