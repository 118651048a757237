"""What the tests of data share: four pictures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.pictures import make_photos


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    return make_photos()
