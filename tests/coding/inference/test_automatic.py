"""The method that `auto` chooses."""

import math
from typing import Any

import pytest
import torch

import gramian
from gramian.coding.inference import automatic, coordinate_descent, fista
from gramian.coding.synthesis import Convolution

METHODS = ("block_omp", "block_iht", "fista", "coordinate_descent")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record which methods are called."""
    names: list[str] = []
    for name in METHODS:
        method = getattr(automatic, name)

        def recorded(*args: Any, name: str = name, method: Any = method, **options: Any) -> Any:
            names.append(name)
            return method(*args, **options)

        monkeypatch.setattr(automatic, name, recorded)
    return names


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 16), gramian.orthogonalize(torch.randn(16, 6, 2)).phi


def test_few_samples_are_left_to_fista(calls: list[str], problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    automatic.infer(*problem, lam=0.5)
    assert calls == ["fista"]


@pytest.mark.slow
def test_many_samples_use_compiled_loops_with_the_same_result(
    calls: list[str], problem: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(automatic, "_MANY", 6 * 6 * 2)
    result = automatic.infer(*problem, lam=0.5, tol=1e-6, max_iter=5000)
    assert calls == ["coordinate_descent"]
    expected = fista(*problem, lam=0.5, tol=1e-6, max_iter=5000)
    torch.testing.assert_close(result.codes, expected.codes, atol=1e-3, rtol=0)
    assert result.converged
    assert torch.equal(result.support, coordinate_descent(*problem, lam=0.5, tol=1e-6).support)


def test_without_a_tolerance_the_iterations_are_those_of_fista(
    calls: list[str], problem: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "_MANY", 1)
    result = automatic.infer(*problem, lam=0.5, tol=None, max_iter=7)
    assert calls == ["fista"]
    assert result.iterations == 7
    assert bool((result.gap == math.inf).all())


def test_a_price_for_groups_uses_greedy_inference_or_thresholds(
    calls: list[str], problem: tuple[torch.Tensor, torch.Tensor]
) -> None:
    automatic.infer(*problem, lam=0.5, prior="group_l0")
    automatic.infer(torch.randn(2, 1, 8, 8), Convolution(torch.randn(4, 1, 3, 3), 2), lam=0.5, prior="group_l0")
    assert calls == ["block_omp", "block_iht"]
