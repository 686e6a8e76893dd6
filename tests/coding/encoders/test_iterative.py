"""The iterative encoder is inference with the rule of its selection."""

import pytest
import torch

from gramian.coding import BlockSparseAutoencoder, block_iht, block_omp, fista
from gramian.coding.encoders import IterativeEncoder, iterative
from gramian.errors import OptionError


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    frames = BlockSparseAutoencoder(20, n_groups=10, group_size=2, active=2).frames.detach()
    return torch.randn(60, 20), frames


@pytest.mark.parametrize(
    ("rule", "infer", "expected"),
    [
        ("topk", None, lambda x, phi: block_omp(x, phi, active=3)),
        ("topk", "block_iht", lambda x, phi: block_iht(x, phi, active=3)),
        ("fdr", None, lambda x, phi: block_omp(x, phi, fdr=0.1)),
        ("threshold", None, lambda x, phi: block_omp(x, phi, lam=1.0)),
        ("soft", None, lambda x, phi: fista(x, phi, lam=1.0)),
    ],
)
def test_the_method_and_its_rule(rule, infer, expected) -> None:
    x, frames = problem()
    encoder = IterativeEncoder(rule, 3, infer=infer, max_iter=500).eval()
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if infer else {}
    torch.testing.assert_close(encoder(x, frames).dense(), expected(x, frames.permute(2, 0, 1)).codes, **tolerance)


def test_parts_of_a_batch_give_the_same_codes(monkeypatch) -> None:
    x, frames = problem()
    encoder = IterativeEncoder("topk", 3).eval()
    whole = encoder(x, frames).dense()
    monkeypatch.setattr(iterative, "LARGEST", 20 * 7)
    torch.testing.assert_close(encoder(x, frames).dense(), whole)


@pytest.mark.parametrize("rule", ["threshold", "soft"])
def test_lambda_follows_the_number_of_active_groups(rule) -> None:
    x, frames = problem()
    encoder = IterativeEncoder(rule, 3, iterations=30)
    counts = [float(encoder(x, frames).active_groups.double().mean()) for _ in range(80)]
    assert sum(counts[-10:]) / 10 == pytest.approx(3, rel=0.1)


def test_methods_that_do_not_fit() -> None:
    with pytest.raises(
        OptionError, match="infer must be one of 'block_omp', 'block_iht' with select='topk'; got 'fista'"
    ):
        IterativeEncoder("topk", 3, infer="fista")
    with pytest.raises(OptionError, match=r"infer must be one of 'fista', .* with select='soft'; got 'block_omp'"):
        IterativeEncoder("soft", 3, infer=block_omp)
