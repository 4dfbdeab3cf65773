"""Losses. Each returns a tensor and touches nothing else."""

from afa_dist.losses.contrastive import NOBODY, afa_loss

__all__ = ["NOBODY", "afa_loss"]
