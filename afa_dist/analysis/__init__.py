"""What a classifier is like beside its accuracy: features, smoothness, corruptions, saliency, calibration."""
