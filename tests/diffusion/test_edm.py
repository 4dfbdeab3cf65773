"""EDM's formulas (2206.00364, table 1 and algorithm 1), written out in float64, against what is used."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler

from afa_dist.config import DiffusionRun, EdmConfig, UNetConfig
from afa_dist.data.image_set import ImageSet
from afa_dist.data.loader import Batch
from afa_dist.diffusion.denoiser import Denoiser, build_denoiser
from afa_dist.diffusion.heun import heun
from afa_dist.diffusion.pipeline import EdmPipeline
from afa_dist.diffusion.step import LEVELS, DenoiseStep
from afa_dist.distributed import World
from afa_dist.models.build import DataShape
from afa_dist.training.job import make_step

SHAPE = DataShape(channels=1, mean=(0.3,), std=(0.4,), classes=tuple("abc"), size=(8, 4))
SMALL = UNetConfig(channels=8, multipliers=(1, 2), layers=1, attention=(2,), head_channels=8)


def small_run(**edm):
    return DiffusionRun(network=SMALL, edm=EdmConfig(**edm))


def batch(images=12, start=0):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(images, 1, *SHAPE.size, generator=g, dtype=torch.float64)
    return Batch(x, torch.arange(images) % 3, start)


def naive_denoise(unet, x, sigma, labels, data):
    """D(x; sigma) of one image, eq. 7 with the constants of table 1."""
    c_skip = data**2 / (sigma**2 + data**2)
    c_out = sigma * data / math.sqrt(sigma**2 + data**2)
    c_in = 1 / math.sqrt(sigma**2 + data**2)
    c_noise = torch.tensor(math.log(sigma) / 4, dtype=torch.float64)
    return c_skip * x + c_out * unet(c_in * x[None], c_noise, class_labels=labels[None]).sample[0]


@pytest.mark.parametrize("edm", [{}, {"p_mean": 0.3, "p_std": 2.0, "sigma_data": 0.7, "label_dropout": 0.6}])
def test_loss_and_gradient_are_those_of_the_paper(edm, monkeypatch):
    """Image by image, with the noise levels, the noise and the forgotten labels that the step has drawn."""
    run = small_run(**edm)
    step = make_step(run, SHAPE, World())
    step.net.double()
    seen = []
    step.net.register_forward_pre_hook(lambda _, args: seen.append(args))
    output = step.loss(batch(), 3)
    output.loss.backward()
    got = {name: p.grad.clone() for name, p in step.net.named_parameters()}
    ((noisy, sigmas, labels),) = seen

    step.net.zero_grad()
    losses = []
    for x, y, noisy_image, sigma, label in zip(*batch()[:2], noisy, sigmas.tolist(), labels, strict=True):
        assert label in (y, len(SHAPE.classes))
        clean, data = 2 * x - 1, run.edm.sigma_data
        weight = (sigma**2 + data**2) / (sigma * data) ** 2
        losses.append(weight * ((naive_denoise(step.net.unet, noisy_image, sigma, label, data) - clean) ** 2).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    torch.testing.assert_close(output.loss, loss, rtol=1e-12, atol=0)
    for name, parameter in step.net.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_what_is_drawn_has_the_distribution_that_is_asked_for():
    """ln sigma ~ N(p_mean, p_std^2), (noisy - clean) / sigma ~ N(0, 1), and every tenth label is left out."""
    run = small_run(p_mean=-0.5, p_std=0.8)
    step = DenoiseStep(build_denoiser(run.network, run.edm, SHAPE).double(), run)
    seen = []

    def denoise(x, sigma, labels):
        seen.append((x, sigma, labels))
        return x

    step.forward = denoise
    many = batch(4096)
    step.loss(many, 0)
    step.loss(many, 1)
    (x, sigma, labels), (other, _, _) = seen
    level = sigma.log()
    assert abs(level.mean() + 0.5) < 0.05 and abs(level.std() - 0.8) < 0.05
    noise = (x - (2 * many.images_BCHW - 1)) / sigma[:, None, None, None]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs((labels == 3).double().mean() - 0.1) < 0.02
    assert not torch.equal(x, other)


def test_held_out_loss_is_the_mean_over_the_levels_of_training():
    """Of a denoiser that returns what it is given the loss is known: lambda(sigma) sigma^2 = 1 + sigma^2 / data^2."""
    run = small_run(p_mean=-1.0, p_std=0.5)
    step = DenoiseStep(build_denoiser(run.network, run.edm, SHAPE), run)

    class Nothing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x, sigma, labels):
            return x

    step.net = Nothing()
    images = ImageSet((batch(2000).images_BCHW * 255).byte(), torch.zeros(2000, dtype=torch.int64), SHAPE.classes)
    assert LEVELS > 1
    mean_of_squares = math.exp(2 * -1.0 + 2 * 0.5**2)  # of a log-normal variable
    want = 1 + mean_of_squares / run.edm.sigma_data**2
    assert step.held_out_loss(images, World()) == pytest.approx(want, rel=0.02)
    assert step.held_out_loss(images, World()) == step.held_out_loss(images, World())


def gaussian_denoiser(mean, std):
    """D(x; sigma) = E[clean | x] where images are N(mean, std^2): the posterior mean, exactly."""
    return lambda x, sigma: (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.3, 0.1), (-0.6, 0.02)])
def test_a_gaussian_is_drawn_with_its_mean_and_variance(mean, std):
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(100)
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = heun(gaussian_denoiser(mean, std), noise, scheduler.sigmas)
    standard_error = std / math.sqrt(len(x))
    assert abs(x.mean() - mean) < 4 * standard_error + 1e-3
    assert x.std() == pytest.approx(std, rel=0.02)
    # The flow is linear here: every image lies where its noise says.
    torch.testing.assert_close(x, mean + std * noise, rtol=0, atol=0.03 * std * noise.abs().max().item() + 1e-3)


def test_the_error_falls_with_the_square_of_the_steps():
    """Heun's method is of second order; Euler's would halve its error where this one quarters it."""
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    errors = []
    for steps in (32, 64, 128):
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        sigmas = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        x = heun(gaussian_denoiser(0.2, 0.5), noise, torch.cat([sigmas, torch.zeros(1)]))
        want = 0.2 + (noise * 80 - 0.2) * 0.5 / math.sqrt(0.5**2 + 80**2)
        errors.append((x - want).abs().max().item())
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.5 < errors[1] / errors[2] < 4.5


def naive_heun(denoise, x, sigmas):
    for i in range(len(sigmas) - 1):
        d = (x - denoise(x, sigmas[i])) / sigmas[i]
        x_next = x + (sigmas[i + 1] - sigmas[i]) * d
        if sigmas[i + 1] != 0:
            d_next = (x_next - denoise(x_next, sigmas[i + 1])) / sigmas[i + 1]
            x_next = x + (sigmas[i + 1] - sigmas[i]) * (d / 2 + d_next / 2)
        x = x_next
    return x


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_pipeline_draws_what_the_algorithm_says(guidance):
    """One image at a time, in float64, with the network's own preconditioning written out; with and without guidance."""
    run = small_run()
    net = build_denoiser(run.network, run.edm, SHAPE).double()
    labels = torch.tensor([2, 0, 1])
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    pipeline = EdmPipeline(net.unet, net.scheduler)
    got = pipeline(labels, generators, num_inference_steps=6, guidance_scale=guidance, output_type="pt").images
    ramp = torch.linspace(0, 1, 6, dtype=torch.float64)
    sigmas = [*((80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).tolist(), 0.0]
    untold = torch.tensor(3)
    with torch.no_grad():
        for image, label, seed in zip(got, labels, (5, 6, 7), strict=True):

            def denoise(x, sigma, label=label):
                told = naive_denoise(net.unet, x, sigma, label, 0.5)
                without = naive_denoise(net.unet, x, sigma, untold, 0.5)
                return without + guidance * (told - without)

            noise = torch.randn(1, *SHAPE.size, generator=torch.Generator().manual_seed(seed)).double()
            want = (naive_heun(denoise, noise * sigmas[0], sigmas) / 2 + 0.5).clamp(0, 1)
            torch.testing.assert_close(image.double(), want, rtol=0, atol=1e-4)
    assert got.std() > 0.05  # an untrained network, but no empty images


def test_a_saved_pipeline_draws_the_same_images(tmp_path):
    run = small_run()
    torch.manual_seed(0)
    net = build_denoiser(run.network, run.edm, SHAPE)
    pipeline = EdmPipeline(net.unet, net.scheduler)
    pipeline.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    again = EdmPipeline.from_pretrained(tmp_path, use_safetensors=True)
    assert isinstance(Denoiser(again.unet, again.scheduler), torch.nn.Module)
    draws = [p([0, 1], torch.Generator().manual_seed(0), 3, output_type="np").images for p in (pipeline, again)]
    assert (draws[0] == draws[1]).all()
    assert draws[0].shape == (2, *SHAPE.size, 1)
