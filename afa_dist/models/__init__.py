"""Networks: pixels in [0, 1] in, features, embeddings or logits out."""
