"""The fuzzer of inputs finds nothing in twenty seconds, makes its examples again, and would see a fault."""

import pytest
import torch

from gramian.penalties import L1
from tests.faults import fuzz_inputs


@pytest.mark.slow
def test_no_example_fails() -> None:
    report = fuzz_inputs.run(20, 0)
    assert not report.failures, "\n".join(report.failures)
    assert report.exact > 0.3 * report.examples
    assert report.errors["OptionError"] > 0


def test_an_example_is_reproducible() -> None:
    for index in range(20):
        one, other = fuzz_inputs.example(3, index), fuzz_inputs.example(3, index)
        assert str(one) == str(other)
        torch.testing.assert_close(one.phi, other.phi, rtol=0, atol=0, equal_nan=True)


def test_a_fault_would_be_seen(monkeypatch) -> None:
    monkeypatch.setattr(L1, "subgradient", lambda self, X: 1.01 * torch.sign(X))
    wide = L1.subgradient
    monkeypatch.setattr(L1, "subgradient", lambda self, X: torch.sign(X) if X.dtype == torch.float64 else wide(self, X))
    report = fuzz_inputs.Report(0)
    for index in range(3000):
        if report.failures:
            break
        one = fuzz_inputs.example(0, index)
        if one.function in ("loss", "value_and_grad", "grad_group") and one.name in ("l1", "3 l1"):
            fuzz_inputs.once(0, index, report)
    assert report.failures
    assert "--seed 0 --only" in report.failures[0]
