"""EDM as a pipeline of diffusers: classes and generators in, images out.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, EDMEulerScheduler, ImagePipelineOutput, UNet2DModel

from afa_dist.diffusion.denoiser import Denoiser
from afa_dist.diffusion.heun import heun


class EdmPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Draws images of given classes by EDM's deterministic sampler (2206.00364, algorithm 1)."""

    def __init__(self, unet: UNet2DModel, scheduler: EDMEulerScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | torch.Tensor,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        num_inference_steps: int = 18,
        guidance_scale: float = 1.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[object]:
        """Draw an image of each class in `class_labels` (B,).

        generator: one for all, or one for each image, which then does not depend on the others. guidance_scale: 1 = none;
        w above 1 takes D + (w - 1) (D - D without class) in the place of D (2207.12598), and twice the time.
        output_type: pil, np (B, H, W, C) or pt (B, C, H, W), the latter two in [0, 1].
        """
        device, dtype = self.unet.device, self.unet.dtype
        labels_B = torch.as_tensor(class_labels, device=device)
        net = Denoiser(self.unet, self.scheduler)

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            sigma_B = sigma.to(dtype).expand(len(x))
            if guidance_scale == 1:
                return net(x.to(dtype), sigma_B, labels_B).double()
            both = torch.cat([labels_B, torch.full_like(labels_B, net.not_told)])
            told, untold = net(x.to(dtype).repeat(2, 1, 1, 1), sigma_B.repeat(2), both).double().chunk(2)
            return told + (guidance_scale - 1) * (told - untold)

        self.scheduler.set_timesteps(num_inference_steps)
        x = heun(denoise, self._noise(len(labels_B), generator).to(device), self.scheduler.sigmas)
        pixels = (x / 2 + 0.5).clamp(0, 1).float()
        images = pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).cpu().numpy()
        images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _noise(self, count: int, generator: Sequence[torch.Generator] | torch.Generator | None) -> torch.Tensor:
        size = self.unet.config.sample_size
        shape = (self.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        if generator is None or isinstance(generator, torch.Generator):
            device = generator.device if generator is not None else self.unet.device
            return torch.randn(count, *shape, generator=generator, device=device)
        return torch.stack([torch.randn(*shape, generator=own, device=own.device) for own in generator])
