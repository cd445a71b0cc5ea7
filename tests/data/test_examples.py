import numpy as np

from potstill.data import Examples


def test_the_repr_is_short():
    assert repr(Examples(("a",) * 2000, np.zeros(2000, np.int64))) == "<Examples: 2,000 texts>"
