"""Images: where they come from, which of them a step sees, and how they are varied."""
