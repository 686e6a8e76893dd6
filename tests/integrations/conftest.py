"""Tests of training runs, without the check of shapes at every call."""

import pytest


@pytest.fixture(autouse=True)
def without_shape_checks(unchecked) -> None:
    """Switch the run-time shape check off."""
