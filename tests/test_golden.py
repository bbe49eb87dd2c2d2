"""Numbers of one seed stay what they are, up to rounding of other processors and versions of XLA."""

import json

import golden
import numpy as np
import pytest


@pytest.mark.smoke
@pytest.mark.parametrize("name", golden.NAMES)
def test_first_metrics(name):
    expected = json.loads((golden.FOLDER / f"{name}.json").read_text())
    measured = golden.measure(name)
    assert measured.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(measured[key], values, rtol=2e-3, atol=2e-4, err_msg=f"{name}: {key}")
