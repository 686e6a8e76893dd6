"""Block orthogonal matching pursuit: greedy selection of groups, with least squares on the support."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gramian.coding.inference.base import Inference, check_start, check_stop
from gramian.coding.inference.discoveries import discoveries, measured_variance, p_values
from gramian.coding.inference.support import GroupAtoms, ridge_codes
from gramian.coding.inference.thresholding import block_iht, counting_prior
from gramian.coding.model import Codes, group_norms
from gramian.coding.priors import GroupL0, Prior
from gramian.coding.synthesis import Dense, Samples, Synthesis, as_synthesis
from gramian.errors import OptionError
from gramian.options import real_number, whole_number
from gramian.typing import Phi

__all__ = ["block_omp"]

_MEMORY = 2**23
"""Numbers in the buffers of one part of a batch: 32 MiB in float32."""
_ORTHONORMAL = 1e-3
"""Groups whose Gram matrices differ by less from I are scored as orthonormal."""
_DEPENDENT = 1e-6
"""A direction with less than this fraction of a group's power counts as linearly dependent."""
_MEASURED = 1024
"""Number of samples from which the noise is measured."""
_PATH = 64
"""Number of groups of a path for which a part of a batch reserves memory."""


def block_omp(
    x: Samples,
    phi: Phi | Synthesis,
    *,
    lam: float | None = None,
    active: int | None = None,
    residual: float | None = None,
    fdr: float | None = None,
    noise: float | None = None,
    prior: str | Prior = "group_l0",
    max_groups: int | None = None,
    max_iter: int = 500,
    tol: float | None = 1e-4,
    start: Codes | None = None,
) -> Inference:
    r"""Select groups one by one, each time the one that explains most of the residual, and fit all by least squares.

    The group added in each step is the one that alone reduces ½‖x − Φa‖² most; then the codes of all selected groups
    are fitted again. Exactly one rule ends the selection. A rule other than λ takes precedence over λ, so that
    `functools.partial(block_omp, active=4)` can be used where a method is called with λ.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n].
        lam: Price λ > 0 of an active group: stop before the group that lowers the energy by less.
        active: Number k of active groups.
        residual: Stop when ‖x − Φa‖² ≤ residual·‖x‖².
        fdr: False discovery rate α: keep the groups that noise does not explain, by the rule of Benjamini and
            Hochberg on P(χ² ≥ gain/σ²) with as many degrees of freedom as the group has dimensions.
        noise: Standard deviation σ of the noise in each entry of x, for `fdr`; by default measured from at most 1024
            samples of the call.
        prior: 'group_l0' or a `SpikeSlab`: its slab acts on the codes of the selected groups.
        max_groups: Maximal number of groups of a sample; by default l/n, as many as can be linearly independent.
        max_iter: Not used, like `tol` and `start`, which all methods accept.
        tol: Not used.
        start: Not used.

    Returns:
        The codes. No bound on the distance from the least energy is known, so the gap is infinite; on its support, the
        codes have the least energy. `converged` is False if `max_groups` ended the selection of a sample, instead of
        the rule.

    Raises:
        ShapeError: If `x` does not fit the dictionary.
        OptionError: If no rule or several are given, a number is out of range, the prior has no price for active
            groups, or the dictionary is not a matrix.

    Cost:
        2·batch·l·m·n flops for each selected group, and O(l·c) more for c coefficients so far; memory for 64 MiB of
        gathered atoms. Samples that are done leave the batch.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> codes = torch.zeros(10, 8, 4)
        >>> codes[:, 2:4] = torch.randn(10, 2, 4)
        >>> x = codes.flatten(1) @ phi.flatten(1).mT
        >>> block_omp(x, phi, active=2).support.nonzero()[:, 1].unique().tolist()
        [2, 3]

    References:
        Eldar, Kuppinger and Bölcskei, "Block-sparse signals: uncertainty relations and efficient recovery", 2010.
    """
    synthesis = as_synthesis(phi)
    check_stop(max_iter, tol)
    rule = _Rule(lam, active, residual, fdr, noise)
    slab = counting_prior(prior, "block_omp")
    if not isinstance(synthesis, Dense):
        raise OptionError(
            "block_omp must have atoms as long as samples, on one process; got a "
            f"{type(synthesis).__name__.lower()}; try infer='block_iht'"
        )
    check_start(start, synthesis.zeros(x))
    with torch.no_grad():
        m, n = synthesis.groups
        every = min(m, max(1, len(synthesis.D) // n))
        limit = every if max_groups is None else min(every, whole_number(max_groups, name="max_groups"))
        if rule.active is not None:
            limit = min(limit, rule.active)
        valid = x.isfinite().all(dim=1)
        x = torch.where(valid[:, None], x, 0)
        ridge = slab.ridge or 0.0
        selector = _Selector(synthesis, slab)
        if rule.fdr is not None and rule.variance is None:
            rule.measure(x[valid][:_MEASURED], selector, min(limit, max(1, len(synthesis.D) // (2 * n))))
        size = max(1, _MEMORY // (m * n + (min(limit, _PATH) * n + 2) * len(synthesis.D)))
        support, steps, ended = [], 0, valid.all()
        for part in x.split(size):
            path = selector.path(part, limit, rule)
            kept = rule.kept(part, path, m)
            ended &= bool(((kept < path.steps) | (path.steps == every) | (path.steps == rule.active)).all())
            support.append(path.support(kept, m))
            steps = max(steps, path.steps)
        codes = ridge_codes(x, synthesis, torch.cat(support) if support else x.new_zeros((0, m)) > 0, ridge)
        if slab.ridge is None and lam is not None:
            codes = block_iht(x, synthesis, lam=lam, prior=slab, start=codes, max_iter=50, tol=1e-6).codes
        codes[~valid] = torch.nan
        return Inference(codes, steps, x.new_full((len(x),), torch.inf), bool(ended), certified="support")


@dataclass(frozen=True)
class _Path:
    """The groups that were selected for each sample, in order, and the gain of each.

    Attributes:
        groups: Indices of the groups.
        gains: The decrease of ½‖x − Φa‖² + ½ρ‖a‖² by each group; 0 from the first group without a gain.
        dimensions: Dimension of the space that the atoms of the group span.
    """

    groups: Int[Tensor, "batch k"]
    gains: Float[Tensor, "batch k"]
    dimensions: Float[Tensor, "batch k"]

    @property
    def steps(self) -> int:
        return self.groups.shape[1]

    def append(self, groups: Int[Tensor, " batch"], gains: Float[Tensor, " batch"], dimensions: Tensor) -> "_Path":
        columns = zip((self.groups, self.gains, self.dimensions), (groups, gains, dimensions), strict=True)
        return _Path(*(torch.cat([column, new[:, None].to(column)], dim=1) for column, new in columns))

    def select(self, rows: Int[Tensor, " selected"]) -> "_Path":
        return _Path(self.groups[rows], self.gains[rows], self.dimensions[rows])

    def support(self, kept: Int[Tensor, " batch"], m: int) -> Bool[Tensor, "batch m"]:
        """Return the groups of the first steps of each sample as a mask."""
        within = torch.arange(self.steps, device=kept.device) < kept[:, None]
        mask = torch.zeros((len(kept), m + 1), dtype=torch.bool, device=kept.device)
        return mask.scatter_(1, torch.where(within, self.groups, m), value=True)[:, :m]


class _Rule:
    """The rule that ends the selection."""

    def __init__(
        self, lam: float | None, active: int | None, residual: float | None, fdr: float | None, noise: float | None
    ) -> None:
        given = [
            name for name, value in (("active", active), ("residual", residual), ("fdr", fdr)) if value is not None
        ]
        if len(given) > 1 or (not given and lam is None):
            raise OptionError(
                "block_omp must have one rule that ends the selection: lam, active, residual or fdr; got "
                f"{' and '.join(given) or 'none'}; try active=4"
            )
        if noise is not None and fdr is None:
            raise OptionError("noise must come with fdr; got noise alone; try fdr=0.1")
        self.lam = None if given or lam is None else real_number(lam, name="lam")
        self.active = None if active is None else whole_number(active, name="active")
        self.residual = None if residual is None else real_number(residual, name="residual", zero=True, attempt="0.01")
        self.fdr = fdr
        if fdr is not None and not 0 < real_number(fdr, name="fdr", attempt="0.1") < 1:
            raise OptionError(f"fdr must be between 0 and 1; got {fdr!r}; try fdr=0.1")
        self.variance = None if noise is None else real_number(noise, name="noise") ** 2

    def measure(self, x: Samples, selector: "_Selector", limit: int) -> None:
        """Measure the variance of the noise from samples, on paths of up to `limit` groups."""
        path = selector.path(x, limit, _Rule(None, limit, None, None, None))
        power = x.square().sum(dim=1)
        self.variance = measured_variance(
            power, 2 * path.gains, path.dimensions, length=x.shape[1], m=selector.m, rate=self.fdr or 0.0
        )

    def kept(self, x: Samples, path: _Path, m: int) -> Int[Tensor, " batch"]:
        """Count the steps of each path to keep; steps after a gain of 0 do not count."""
        gains = path.gains
        if self.variance is not None and self.fdr is not None:
            p = p_values(2 * gains, path.dimensions, self.variance)
            return discoveries(torch.where(gains > 0, p, 1), m=m, rate=self.fdr)
        useful = gains > 0 if self.lam is None else gains > self.lam
        if self.residual is not None:
            power = x.square().sum(dim=1).double()
            before = power[:, None] - 2 * (gains.double().cumsum(dim=1) - gains)
            useful &= before > self.residual * power[:, None]
        return useful.to(torch.int64).cumprod(dim=1).sum(dim=1)

    def finished(self, x: Samples, path: _Path, m: int) -> Bool[Tensor, " batch"]:
        """Return which samples need no further group, given their paths so far."""
        last = path.gains[:, -1]
        if self.active is not None:
            return last <= 0
        if self.variance is not None and self.fdr is not None:
            # Later steps hardly fall below the line of Benjamini and Hochberg, α·j/m, from twice its height.
            p = p_values(2 * path.gains[:, -1:], path.dimensions[:, -1:], self.variance)[:, 0]
            return (p > self.fdr * (2 * path.steps + 4) / m) | (last <= 0)
        return self.kept(x, path, m) < path.steps


class _Selector:
    """Greedy selection, with an orthonormal basis of the selected groups of each sample that grows by one group a step.

    For a ridge ρ, it is the basis of the atoms stacked on √ρ·I, of which only the upper part is stored.
    """

    def __init__(self, synthesis: Dense, slab: GroupL0) -> None:
        self.slab = slab
        self.D = synthesis.D
        self.m, self.n = synthesis.groups
        self.atoms = GroupAtoms(synthesis.phi)
        self.ridge = ridge = slab.ridge or 0.0
        gram = (self.atoms.rows[: self.m] @ self.atoms.rows[: self.m].mT).double()
        values, vectors = torch.linalg.eigh(gram)
        floor = _DEPENDENT * values.amax(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        self.dimensions = (values > floor).sum(dim=1)
        # Group i explains ½cᵀ(Φ_iᵀΦ_i + ρI)⁻¹c by itself, for correlations c: half the squared length of c times this.
        inverse = torch.where(values > floor, (values + ridge).clamp_min(1e-300).rsqrt(), 0)
        self.rounding = 64 * torch.finfo(self.D.dtype).eps
        self.whitening = (vectors * inverse[:, None]).to(self.D.dtype)
        self.orthonormal = bool(((values + ridge - 1).abs() < _ORTHONORMAL).all())

    def path(self, x: Samples, limit: int, rule: _Rule) -> _Path:
        """Select groups of each sample until the rule ends all paths, at most `limit`."""
        rows = torch.arange(len(x), device=x.device)
        whole = path = _Path(rows[:, None][:, :0], x[:, :0], x[:, :0])
        error, basis = x, x.new_zeros((len(x), 0, x.shape[1]))
        noise = torch.finfo(x.dtype).eps * x.square().sum(dim=1)
        for _ in range(limit if len(x) else 0):
            best = self._scores(error).scatter_(1, path.groups, -1.0).argmax(dim=1)
            basis, error, gains = self._add(best, basis, error)
            gains = torch.where(gains > noise[rows], gains, 0)
            path = path.append(best, gains, self.dimensions[best])
            whole = whole.append(*self._at(rows, path, len(x)))
            remaining = (~rule.finished(x[rows], path, self.m)).nonzero()[:, 0]
            if not len(remaining):
                break
            if 2 * len(remaining) <= len(rows):
                rows, error, basis, path = rows[remaining], error[remaining], basis[remaining], path.select(remaining)
        return whole

    @staticmethod
    def _at(rows: Tensor, path: _Path, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last step of the paths of some samples as that of all samples, with 0 for the others."""
        last = (path.groups[:, -1], path.gains[:, -1], path.dimensions[:, -1])
        groups, gains, dimensions = (part.new_zeros(count).index_copy_(0, rows, part) for part in last)
        return groups, gains, dimensions

    def _scores(self, error: Samples) -> Float[Tensor, "batch m"]:
        correlations = (error @ self.D).unflatten(1, (self.m, self.n))
        if not self.orthonormal:
            correlations = torch.einsum("bmi,mij->bmj", correlations, self.whitening)
        return group_norms(correlations)

    def _add(self, groups: Int[Tensor, " batch"], basis: Tensor, error: Samples) -> tuple[Tensor, Samples, Tensor]:
        """Extend the basis by one group of each sample; return it, the new x − Φa, and the gain."""
        atoms = self.atoms.gather(groups[:, None])
        inside = atoms @ basis.mT
        gram = atoms @ atoms.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += self.ridge
        floor = self.rounding * diagonal
        gram = gram - inside @ inside.mT
        # Cholesky factorisation of the Gram matrix outside the basis, with forward substitution of the atoms and of
        # their correlations with the error; a direction that lies in the basis is left out.
        new = torch.cat([torch.baddbmm(atoms, inside, basis, alpha=-1), atoms @ error[..., None]], dim=2)
        for k in range(self.n):
            pivot = gram[:, k, k]
            inverse = torch.where(pivot > floor[:, k], pivot.clamp_min(torch.finfo(gram.dtype).tiny).rsqrt(), 0)
            new[:, k] *= inverse[:, None]
            if k + 1 < self.n:
                column = gram[:, k + 1 :, k] * inverse[:, None]
                gram[:, k + 1 :, k + 1 :] -= column[:, :, None] * column[:, None]
                new[:, k + 1 :] -= column[:, :, None] * new[:, k : k + 1]
        direction, coordinates = new[..., :-1], new[..., -1:]
        error = error - (direction.mT @ coordinates)[..., 0]
        gains = 0.5 * coordinates.square().sum(dim=(1, 2))
        if self.slab.ridge is None:
            # What the group brings with its slab, if it is orthogonal to the groups before it.
            gains = self.slab.gain(coordinates.mT, 1.0)[:, 0]
        return torch.cat([basis, direction], dim=1), error, gains
