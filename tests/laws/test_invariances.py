"""What leaves the loss as it is, and what that makes of its gradient: of every penalty of the table."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from tests.cases import ALL_CASES, FREE_LENGTHS, PenaltyCase, over_all_penalties, stiefel

BETA = 0.7
SHAPE = (6, 4, 3)

STRIDES = {
    "reversed": lambda phi: phi.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "by group": lambda phi: phi.permute(1, 0, 2).contiguous().permute(1, 0, 2),
    "every other": lambda phi: torch.stack([phi, phi], dim=-1)[..., 1],
    "a slice": lambda phi: torch.cat([phi, phi], dim=0)[: len(phi)],
    "rows apart": lambda phi: phi.repeat_interleave(2, dim=0)[::2],
}


def loss(phi: Tensor, case: PenaltyCase) -> Tensor:
    return gramian.loss(phi, beta=BETA, penalty=case.at(*phi.shape[1:]))


def grad(phi: Tensor, case: PenaltyCase) -> Tensor:
    made = gramian.value_and_grad(phi, beta=BETA, penalty=case.at(*phi.shape[1:]))[1]
    assert case is ALL_CASES["0 l1"] or made.abs().max() > 1e-2
    return made


@over_all_penalties
class TestInvariances:
    def test_rotation(self, case) -> None:
        phi, Q = case.draw(SHAPE), stiefel(6, 1, 6)[:, 0, :]
        turned = torch.einsum("kl,lmn->kmn", Q, phi)
        torch.testing.assert_close(loss(turned, case), loss(phi, case), rtol=1e-10, atol=0)
        torch.testing.assert_close(grad(turned, case), torch.einsum("kl,lmn->kmn", Q, grad(phi, case)))

    def test_permutation_of_groups_and_members(self, case) -> None:
        phi = case.draw(SHAPE)
        groups = torch.arange(4) if case.separate else torch.randperm(4)
        members = torch.randperm(3) if case.members else torch.arange(3)
        mixed = phi[:, groups][:, :, members]
        torch.testing.assert_close(loss(mixed, case), loss(phi, case), rtol=1e-10, atol=0)
        torch.testing.assert_close(grad(mixed, case), grad(phi, case)[:, groups][:, :, members])

    def test_sign_of_a_vector(self, case) -> None:
        phi, signs = case.draw(SHAPE), torch.tensor([1, -1, -1]).double()
        turned = phi * signs
        if case.signs:
            torch.testing.assert_close(grad(turned, case), grad(phi, case) * signs)
        else:
            assert (loss(turned, case) - loss(phi, case)).abs() > 1e-3

    def test_sum_over_groups(self, case) -> None:
        phi, penalty = case.draw(SHAPE), case.at(*SHAPE[1:])
        value, whole = gramian.value_and_grad(phi, beta=BETA, penalty=penalty)
        parts = [
            gramian.value_and_grad(phi[:, i : i + 1], beta=BETA, penalty=penalty.select_groups(slice(i, i + 1)))
            for i in range(SHAPE[1])
        ]
        torch.testing.assert_close(value, sum(part[0] for part in parts))
        torch.testing.assert_close(whole, torch.cat([part[1] for part in parts], dim=1))

    def test_linear_in_beta(self, case) -> None:
        phi, penalty = case.draw(SHAPE), case.at(*SHAPE[1:])
        value, whole = gramian.value_and_grad(phi, penalty=penalty)
        for beta in (0, 0.25, 3):
            scaled = gramian.value_and_grad(phi, beta=beta, penalty=penalty)
            torch.testing.assert_close(scaled, (beta * value, beta * whole))

    def test_strides_do_not_matter(self, case) -> None:
        phi, penalty = case.draw(SHAPE), case.at(*SHAPE[1:])
        for name, strided in STRIDES.items():
            view = strided(phi)
            assert view.stride() != phi.stride() or view.untyped_storage().size() != phi.untyped_storage().size(), name
            for function in (
                lambda phi: gramian.value_and_grad(phi, penalty=penalty),
                lambda phi: gramian.grad_vector(phi, 1, 2, penalty=penalty),
            ):
                torch.testing.assert_close(function(view), function(phi))

    def test_scaled_vectors_matter_or_do_not(self, case) -> None:
        phi, scales = case.draw(SHAPE), 1 + 0.1 * torch.rand(1, *SHAPE[1:], dtype=torch.float64)
        if case.convex:
            assert case is ALL_CASES["0 l1"] or (loss(phi * scales, case) - loss(phi, case)).abs() > 1e-6
        else:
            torch.testing.assert_close(loss(phi * scales, case), loss(phi, case))
            torch.testing.assert_close(grad(phi * scales, case) * scales, grad(phi, case))
            assert (grad(phi, case) * phi).sum(dim=0).abs().max() < 1e-10


@over_all_penalties
@pytest.mark.parametrize("entry", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite_stay_in_their_group_and_fill_it(case, entry) -> None:
    for where in ((0, 1, 0), (4, 1, 1)):
        phi, penalty = case.draw((5, 3, 3)).float(), case.at(3, 3)
        clean = gramian.value_and_grad(phi, penalty=penalty)[1]
        phi[where] = entry
        value, made = gramian.value_and_grad(phi, penalty=penalty)
        assert not value.isfinite()
        assert made[:, 1].isnan().all()
        torch.testing.assert_close(made[:, [0, 2]], clean[:, [0, 2]], rtol=1e-4, atol=1e-4)
        leaf = phi.clone().requires_grad_()
        gramian.loss(leaf, penalty=penalty).backward()
        assert torch.equal(leaf.grad.isnan(), made.isnan())
        assert gramian.grad_group(phi, 1, penalty=penalty).isnan().all()
        assert gramian.grad_slice(phi, 2, penalty=penalty)[1].isnan().all()
        for b in range(3):
            assert gramian.grad_vector(phi, 1, b, penalty=penalty).isnan().all()
            assert gramian.grad_vector(phi, 0, b, penalty=penalty).isfinite().all()


@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_a_single_vector_that_is_not_finite_is_told_where_lengths_are_free(entry) -> None:
    phi = torch.randn(4, 3, 1, dtype=torch.float64)
    phi[2, 1] = entry
    for case in FREE_LENGTHS.values():
        value, grad = gramian.value_and_grad(phi, penalty=case.penalty)
        assert value.isnan()
        assert grad[:, 1].isnan().all()
        assert not grad[:, 0].any()
