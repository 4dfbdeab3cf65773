"""Training of image classifiers that resist adversarial attacks, by Adversarial Feature Alignment (arXiv 2402.12187)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afa_dist.models.robust_classifier import RobustClassifier

__version__ = "0.1.0"

__all__ = ["RobustClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    """`RobustClassifier`, imported when it is asked for: it needs torch, which takes seconds to import."""
    if name == "RobustClassifier":
        from afa_dist.models.robust_classifier import RobustClassifier

        return RobustClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
