"""Matching of subspaces: laws, the null of random subspaces, and mistakes."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest

from gramian.coding import match
from gramian.coding.evaluation import matching
from gramian.coding.evaluation import subspaces as spans
from gramian.distributions import UniformFrames
from gramian.errors import DataError, DtypeError, LayoutError, OptionError, ShapeError


def frames(length: int, m: int, n: int) -> torch.Tensor:
    return UniformFrames(length, n, dtype=torch.float64).sample((m,)).permute(1, 0, 2)


def mixed(m: int, n: int) -> torch.Tensor:
    """Random invertible matrices, one for each group."""
    return torch.randn(m, n, n, dtype=torch.float64) + 3 * torch.eye(n, dtype=torch.float64)


class TestLaws:
    def test_a_permuted_and_mixed_copy_matches_with_overlap_1(self) -> None:
        phi, order = frames(24, 9, 3), torch.randperm(9)
        copy = torch.einsum("lmi,mij->lmj", phi[:, order], mixed(9, 3))
        result = match(phi, copy)
        assert torch.equal(order[result.pairs[:, 1]], torch.arange(9))
        torch.testing.assert_close(result.overlap, torch.ones(9, dtype=torch.float64))
        assert result.angle.max() < 1e-4
        assert result.share == 1
        assert (result.p_value <= 1 / 1000).all()

    def test_rotations_of_the_space_and_within_groups_change_nothing(self) -> None:
        a, b = frames(12, 5, 2), frames(12, 7, 3)
        turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
        turned = [torch.einsum("kl,lmi,mij->kmj", turn, phi, mixed(*phi.shape[1:])) for phi in (a, b)]
        one, other = match(a, b), match(*turned)
        assert torch.equal(one.pairs, other.pairs)
        torch.testing.assert_close(one.overlap, other.overlap)
        torch.testing.assert_close(one.angle, other.angle)
        torch.testing.assert_close(one.p_value, other.p_value, rtol=0, atol=2e-3)

    @pytest.mark.parametrize("shapes", [((5, 2), (7, 3)), ((6, 1), (6, 1)), ((8, 4), (3, 4))])
    def test_symmetric(self, shapes) -> None:
        a, b = (frames(12, *shape) for shape in shapes)
        one, other = match(a, b), match(b, a)
        order = other.pairs[:, 1].argsort()
        assert torch.equal(one.pairs, other.pairs[order].flip(1))
        for name in ("overlap", "angle", "p_value", "null_quantile"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name)[order])
        assert one.live == other.live[::-1]
        assert len(one.pairs) == min(shapes[0][0], shapes[1][0])

    def test_the_definition(self) -> None:
        """The principal angles by orthonormal bases of scipy, the assignment over loops of pairs."""
        from scipy.linalg import subspace_angles

        a, b = torch.randn(10, 6, 2, dtype=torch.float64), torch.randn(10, 5, 3, dtype=torch.float64)
        angles = [[subspace_angles(a[:, i].numpy(), b[:, j].numpy()) for j in range(5)] for i in range(6)]
        overlap = np.array([[np.mean(np.cos(each) ** 2) for each in row] for row in angles])
        rows, columns = linear_sum_assignment(overlap, maximize=True)
        result = match(a, b)
        assert result.pairs.tolist() == np.stack([rows, columns], axis=1).tolist()
        np.testing.assert_allclose(result.overlap.numpy(), overlap[rows, columns], rtol=1e-6)
        expected = [np.degrees(max(angles[i][j])) for i, j in zip(rows, columns, strict=True)]
        np.testing.assert_allclose(result.angle.numpy(), expected, rtol=1e-6)

    def test_directions_match_by_cosine_whatever_their_sign_and_length(self) -> None:
        phi = torch.randn(32, 20, 1)
        other = -3 * phi.roll(1, dims=1) + 0.1 * torch.randn(32, 20, 1)
        result = match(phi, other)
        assert torch.equal(result.pairs[:, 1], torch.arange(1, 21) % 20)
        cosines = torch.cosine_similarity(phi[:, :, 0], other[:, result.pairs[:, 1], 0], dim=0)
        torch.testing.assert_close(result.overlap.float(), cosines.square())

    def test_a_contained_subspace_overlaps_by_1(self) -> None:
        phi = frames(20, 6, 4)
        result = match(phi[:, :, :2], phi)
        assert torch.equal(result.pairs[:, 0], result.pairs[:, 1])
        torch.testing.assert_close(result.overlap, torch.ones(6, dtype=torch.float64))


class TestDeadDirections:
    def test_they_do_not_count(self) -> None:
        phi = frames(24, 8, 4).float()
        part = phi.clone()
        part[:, :3, 2:] = 1e-7 * torch.randn(24, 3, 2)
        part[:, 7] = 0
        result = match(phi, part)
        assert result.live == (8, 7)
        assert result.pairs[:, 0].tolist() == result.pairs[:, 1].tolist() == list(range(7))
        assert result.dimensions.tolist() == 3 * [[4, 2]] + 4 * [[4, 4]]
        assert result.overlap.min() > 1 - 1e-5
        assert match(part, phi).share == 1
        assert result.share == 7 / 8

    def test_dependent_vectors_are_their_span(self) -> None:
        phi = frames(16, 5, 2)
        double = torch.cat([phi, phi @ torch.randn(2, 2, dtype=torch.float64)], dim=2)
        result = match(phi, double)
        assert result.dimensions.tolist() == 5 * [[2, 2]]
        assert result.overlap.min() > 1 - 1e-9

    def test_more_vectors_than_dimensions(self) -> None:
        result = match(torch.randn(3, 4, 5), torch.randn(3, 4, 2))
        assert result.dimensions.tolist() == 4 * [[3, 2]]
        assert result.overlap.min() > 1 - 1e-6
        assert (result.p_value == 1).all()
        assert result.share == 0


class TestNull:
    @pytest.mark.parametrize(("m", "n"), [(40, 1), (40, 3), (15, 4)])
    def test_random_against_random_is_uniform(self, m, n) -> None:
        values = torch.cat([match(frames(24, m, n), frames(24, m, n), draws=40, seed=k).p_value for k in range(8)])
        assert kstest(values.numpy(), "uniform").pvalue > 1e-3
        assert (values < 0.01).double().mean() < 0.05

    def test_mixed_dimensions_use_the_pooled_null(self) -> None:
        """Few random pairs have the dimensions of a group that is alone of its kind."""
        values = []
        for k in range(10):
            a, b = frames(24, 30, 3), frames(24, 30, 3)
            a[:, :2, 1:], b[:, 3:6, 2:] = 0, 0
            values.append(match(a, b, draws=5, seed=k).p_value)
        assert kstest(torch.cat(values).numpy(), "uniform").pvalue > 1e-3

    def test_the_moments_of_a_pair_of_random_subspaces(self) -> None:
        for r, s in ((1, 1), (1, 3), (2, 4)):
            a, b = (spans.subspaces(frames(9, 4000, size), 1e-4) for size in (r, s))
            cosines = torch.einsum("lmi,lmj->mij", a.bases, b.bases)
            overlap = cosines.square().sum(dim=(1, 2)) / min(r, s)
            mean, spread = matching._moments(torch.tensor([[r, s]]), 9)
            assert mean.item() == pytest.approx(overlap.mean().item(), rel=0.03)
            assert spread.item() == pytest.approx(overlap.std().item(), rel=0.06)

    def test_the_covariance_of_the_samples(self) -> None:
        """Dictionaries of unrelated samples share the directions of large variance; only the second null knows it."""
        scales = torch.linspace(1, 4, 24, dtype=torch.float64).exp()
        a, b = (scales[:, None, None] * torch.randn(24, 30, 2, dtype=torch.float64) for _ in range(2))
        assert match(a, b).share > 0.5
        result = match(a, b, covariance=scales.square().diag())
        assert result.share < 0.2
        assert kstest(result.p_value.numpy(), "uniform").pvalue > 1e-3

    def test_repeatable_and_as_many_draws_as_asked(self) -> None:
        a, b = frames(12, 5, 2), frames(12, 7, 3)
        one, other = match(a, b, draws=4), match(a, b, draws=4)
        assert torch.equal(one.p_value, other.p_value)
        assert len(one.null_overlap) == 20
        assert len(match(a, b).null_overlap) == 1000
        assert not torch.equal(match(a, b, draws=4, seed=1).null_overlap, one.null_overlap)


class TestInput:
    def test_other_tools_and_dtypes(self) -> None:
        phi = frames(16, 6, 3).float()
        theirs = phi.permute(1, 2, 0).numpy()
        for result in (
            match(theirs, theirs, layout="m n l -> l m n"),
            match(phi, theirs, layout_b="m n l -> l m n"),
            match(phi.bfloat16(), phi),
        ):
            assert torch.equal(result.pairs[:, 0], result.pairs[:, 1])
            assert result.overlap.min() > 0.999
        flat = phi[:, :, 0].numpy().T
        assert match(flat, flat, layout="m l -> l m ()").dimensions.tolist() == 6 * [[1, 1]]

    def test_blocks_do_not_change_the_result(self, monkeypatch) -> None:
        a, b = frames(16, 9, 2), frames(16, 8, 3)
        whole = match(a, b)
        monkeypatch.setattr(spans, "_NUMBERS", 100)
        parts = match(a, b)
        assert torch.equal(whole.pairs, parts.pairs)
        torch.testing.assert_close(whole.overlap, parts.overlap)

    def test_no_gradient_and_no_change_of_the_input(self) -> None:
        phi = torch.randn(8, 4, 2, requires_grad=True)
        before = phi.detach().clone()
        assert not match(phi, phi).overlap.requires_grad
        assert torch.equal(phi.detach(), before)

    def test_extreme_scales(self) -> None:
        phi = frames(12, 4, 2)
        for scale in (1e-200, 1e200):
            assert match(phi * scale, phi).share == 1

    def test_mistakes(self) -> None:
        phi = torch.randn(8, 4, 2)
        with pytest.raises(ShapeError, match=r"must have the same length; got 8 and 4.*try layout='m n l -> l m n'"):
            match(phi, phi.permute(1, 2, 0))
        with pytest.raises(LayoutError, match="without a layout"):
            match(phi[None], phi)
        with pytest.raises(DataError, match="phi_b must have a group that is not 0; got 4 groups of zeros"):
            match(phi, 0 * phi)
        with pytest.raises(DataError, match="phi_a must be finite"):
            match(phi / 0, phi)
        with pytest.raises(DtypeError, match=r"phi_a must be dense and of dtype float64.*got torch.int64"):
            match(torch.ones(8, 4, 2, dtype=torch.int64), phi)
        with pytest.raises(DtypeError, match="phi_b must be an array or a tensor of real numbers; got list"):
            match(phi, [["a"]])
        with pytest.raises(OptionError, match="tol must be at least 1e-06 and less than 1; got 1e-09"):
            match(phi, phi, tol=1e-9)
        with pytest.raises(OptionError, match="draws must be at least 1"):
            match(phi, phi, draws=0)
        with pytest.raises(ShapeError, match=r"covariance must be of shape \[8, 8\]; got \[2, 2\]"):
            match(phi, phi, covariance=torch.eye(2))
        with pytest.raises(DataError, match="covariance must be finite"):
            match(phi, phi, covariance=torch.full((8, 8), torch.nan))
        with pytest.raises(DataError, match="covariance must have a positive eigenvalue"):
            match(phi, phi, covariance=torch.zeros(8, 8))


def test_the_table_and_the_repr() -> None:
    phi = frames(24, 9, 3)
    result = match(phi, torch.cat([phi[:, :6], frames(24, 3, 3)], dim=1))
    assert repr(result).startswith("SubspaceMatch(6 of 9 groups come back, mean overlap 0.")
    lines = result.table(4).splitlines()
    assert lines[0].split()[:3] == ["first", "second", "dimensions"]
    assert lines[1].split()[2:5] == ["3,", "3", "1.000"]
    assert lines[-1] == "and 5 more pairs"
    assert len(result.table(None).splitlines()) == 10
