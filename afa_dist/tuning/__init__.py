"""A search over options of a recipe: what is sampled, what its trials reached, and which of them nobody beats."""
