"""Shared by the tests of evaluations."""

import numpy as np
import pytest

from tests.evaluation.helpers import trained_perceptron


@pytest.fixture(scope="session")
def quick(digits):
    """A network whose passes take no time."""
    return trained_perceptron(digits)


@pytest.fixture(scope="session")
def few(digits):
    return digits.test.subset(np.arange(64))
