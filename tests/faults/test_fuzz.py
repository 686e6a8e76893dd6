"""A minute of every fuzzer; `make fuzz` runs them for as long as asked."""

import pytest

from tests.faults import fuzz


def test_there_is_something_to_run() -> None:
    assert fuzz.FUZZERS


@pytest.mark.slow
def test_a_minute_of_fuzzing() -> None:
    fuzz.run(60.0, seed=0)
