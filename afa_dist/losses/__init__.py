"""Losses. Each returns a tensor and touches nothing else."""

from afa_dist.losses.contrastive import afa_loss
from afa_dist.losses.smoothing import smoothed_cross_entropy
from afa_dist.losses.streaming import NOBODY
from afa_dist.losses.trades import trades_loss

__all__ = ["NOBODY", "afa_loss", "smoothed_cross_entropy", "trades_loss"]
