"""A recipe whose trials take seconds, for searches in tests."""

from pathlib import Path


def small_recipe(epochs: int) -> str:
    return f"""
base: {Path(__file__).parents[1] / "recipes" / "digits-joint.yaml"}
name: s
model: {{width: 8}}
data: {{train_limit: 400}}
attack: {{steps: 2}}
validation: {{steps: 2}}
tracking: {{tensorboard: false}}
finetune:
  schedule: {{epochs: {epochs}, batch_size: 64}}
"""
