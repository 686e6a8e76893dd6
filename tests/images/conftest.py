"""Tests that learn, or make hundreds of cases, run without the check of shapes at every call; the examples have it."""

import pytest


@pytest.fixture(autouse=True)
def without_shape_checks(unchecked) -> None:
    """Switch the run-time shape check off."""
