"""Digits as scikit-learn has them, and without waiting for it."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from afa_dist.data import digits_file


@pytest.mark.parametrize("there", [True, False])
def test_the_file_is_what_scikit_learn_makes_of_it(there, monkeypatch):
    if not there:  # as if a later version kept it elsewhere
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    images, labels = digits_file.digits()
    raw = load_digits()
    assert np.array_equal(images, raw.images) and images.dtype == raw.images.dtype
    assert np.array_equal(labels, raw.target)


def test_scikit_learn_is_not_imported():
    program = "from afa_dist.config import DataConfig; from afa_dist.data.catalogue import load_part; import sys\n"
    program += "load_part(DataConfig(name='digits'), 'test'); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
