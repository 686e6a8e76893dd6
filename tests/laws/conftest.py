"""The laws run without the check of shapes at every call, which costs more than they do; other tests have it."""

import pytest


@pytest.fixture(autouse=True)
def without_shape_checks(unchecked) -> None:
    """Switch the run-time shape check off."""
