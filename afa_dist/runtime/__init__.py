"""Where a run computes. The only package that knows Ray."""
