"""Codes of random samples, some groups of which are silent."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gramian.activations.evaluation import EncodedSamples, encode_samples
from gramian.coding import SparseCodes


class Known(NamedTuple):
    x: Tensor
    phi: Tensor
    dense: Tensor
    codes: EncodedSamples


def codes_of(dense: Tensor, phi: Tensor | None = None, x: Tensor | None = None, batch: int = 64) -> EncodedSamples:
    """Encode samples whose dense codes are known, batch by batch."""
    _, m, n = dense.shape
    phi = torch.linalg.qr(torch.randn(m * n, m * n)).Q.view(m * n, m, n) if phi is None else phi
    x = torch.einsum("lmn,bmn->bl", phi, dense) if x is None else x
    rest = iter(dense.split(batch))
    return encode_samples(x.split(batch), phi, lambda _: SparseCodes.of(next(rest)))


@pytest.fixture
def known() -> Known:
    count, m, n = 200, 7, 3
    dense = torch.randn(count, m, n) * torch.linspace(1, 0.2, n)
    often = torch.tensor([0.5, 0.3, 0.3, 0.2, 0.1, 0.02, 0.0])
    dense *= (torch.rand(count, m) < often)[..., None]
    dense[0, 5] = 1.0
    phi = torch.linalg.qr(torch.randn(24, m * n)).Q.view(24, m, n)
    x = torch.einsum("lmn,bmn->bl", phi, dense) + 0.1 * torch.randn(count, 24)
    return Known(x, phi, dense, codes_of(dense, phi, x))
