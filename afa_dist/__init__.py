"""Training of image classifiers that resist adversarial attacks, by Adversarial Feature Alignment (arXiv 2402.12187)."""

__version__ = "0.1.0"
