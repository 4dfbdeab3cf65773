"""How good a classifier is, clean and attacked."""
