"""Where robustbench looks for it."""

from pyautoattack.state import EvaluationState

__all__ = ["EvaluationState"]
