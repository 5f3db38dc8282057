"""Features of points, before an exported network reads them."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.export.point_checks import check_features

UNIT = np.eye(3)
BAD = {
    "bytes for fractions": ("rgb", np.array([[255, 0, 0]]), "run from 0 to 255.*Divide"),
    "colours of images minus their mean": ("rgb", -UNIT, "from -1 to"),
    "colours behind other columns": ("intensity,rgb", np.array([[9, 2, 0, 0]]), "run from 0 to 2"),
    "colours behind extra ones": ("extra,rgb", np.array([[9, 9, 2, 0, 0]]), "run from 0 to 2"),
    "long normals": ("normals", 2 * UNIT, "up to 2 long.*unit"),
    "words": ("intensity", np.array([["a"]]), "must be numbers"),
    "NaN": ("normals", np.nan * UNIT, "NaN"),
    "one value a point": ("intensity", np.zeros(4), r"\(4, 1\), columns intensity; got float64 \(4,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_features_out_of_their_range_are_refused(name):
    columns, values, message = BAD[name]
    with pytest.raises(InvalidInputError, match=message):
        check_features(values, (len(values), values.shape[1] if values.ndim > 1 else 1), columns, 0)


def test_others_are_taken_as_they_are():
    values = np.concatenate([[[7, 0.5, 0, 1]], [[0, 0.6, 0.8, 0]]], axis=0)
    np.testing.assert_array_equal(check_features(values, (2, 4), "extra,rgb", 0), values.astype(np.float32))
    np.testing.assert_array_equal(check_features(np.zeros((2, 3)), (2, 3), "normals", 0), np.zeros((2, 3)))
