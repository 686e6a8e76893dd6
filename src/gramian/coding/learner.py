"""Dictionary learning, one batch after the other, and what there is to remember in between."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gramian.coding.inference import InferenceMethod
from gramian.coding.methods import as_method
from gramian.coding.options import real_number, whole_number
from gramian.coding.overlap import Overlap
from gramian.coding.parallel import ALONE, Parallel
from gramian.coding.prior import Codes, Prior, as_prior, dictionary_matrix, group_norms
from gramian.coding.synthesis import Convolution, Dense, Samples, Synthesis
from gramian.errors import OptionError
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, step_
from gramian.typing import Phi

__all__ = ["UPDATES", "Learner", "LearningStep"]

UPDATES = ("sgd", "online")
"""How the dictionary moves: down the gradient of a batch, or to the minimum for all batches so far."""

_MEMORY = 10.0
"""How fast batches are forgotten: after t steps, those older than about t/10 steps count little."""
_GAIN = 0.05
"""Largest relative change of λ in one step."""


@dataclass(frozen=True)
class LearningStep:
    """What one learning step did.

    Attributes:
        phi: The new dictionary.
        reconstruction: Mean over the batch of ½‖x − Σ Φ_i a_i‖², before the step.
        sparsity: Mean of −log p(a), λ Σ ‖a_i‖ for the group Laplace prior, before the step.
        orthogonality: Σ_i μ(Φ_iᵀΦ_i − I) after the gradient, before the orthogonality step; 0 without a rule.
        active_groups: Mean number of groups that are not zero; of a convolution, in a part as large as an atom.
        replaced: How many silent groups were made anew.
    """

    phi: Phi
    reconstruction: float
    sparsity: float
    orthogonality: float
    active_groups: float
    replaced: int = 0


class Learner:
    r"""Learn a dictionary from batches: infer codes, move the dictionary, make its groups orthonormal.

    With `update="sgd"`, Φ ← Φ + η·mean_x (x − Σ Φ_i a_i) aᵀ, then a step of the rule with the same η: the penalty is
    not part of the gradient. With `update="online"`, one sweep over the groups on the mean of all batches so far, of
    which the moments aaᵀ and xaᵀ are kept: each group goes to its minimum, among those of norm √n, along a bound of the
    curvature; then all take a step of the rule, with η the inverse of the mean curvature.
    Without a rule, atoms are only scaled to unit length, since else they would grow without bound.

    Args:
        phi: The first dictionary, Φ[l, m, n]; not written to.
        lam: Sparsity λ; with `target_active`, where to begin.
        beta: Strength β of the orthogonality penalty.
        rule: Name or `Rule`, or None for no penalty.
        penalty: Name or `Penalty`.
        update: 'sgd' or 'online'.
        prior: Name or `Prior`.
        infer: Name or `InferenceMethod`.
        max_iter: Iterations of inference in a step.
        target_active: Mean number of active groups towards which λ is moved; None leaves λ as it is.
        patience: After how many steps without use a group is made anew, from the samples that are coded worst; None
            leaves silent groups alone.
        kernel: Shape (channels, height, width) of atoms that are placed everywhere in larger samples, in a convolution;
            None for atoms as long as samples.
        stride: Distance of such places, pixels.
        overlap: Which atoms groups have in common; None for groups of their own.
        parallel: Which part of each step is this process's.

    Attributes:
        phi: The dictionary; of this process's groups, where they are spread.
        lam: Sparsity λ.
        steps: How many steps were made.

    Raises:
        OptionError: If an option is out of range.

    Examples:
        >>> import torch
        >>> from gramian.coding import initial_dictionary
        >>> learner = Learner(initial_dictionary(16, 4, 2, seed=0), lam=0.5, beta=0.1)
        >>> learner.step(torch.randn(8, 16), lr=0.1).phi.shape
        torch.Size([16, 4, 2])

    References:
        Olshausen and Field, "Emergence of simple-cell receptive field properties by learning a sparse code for natural
        images", 1996; Mairal, Bach, Ponce and Sapiro, "Online learning for matrix factorization and sparse coding",
        2010.
    """

    def __init__(
        self,
        phi: Phi,
        *,
        lam: float,
        beta: float,
        rule: str | Rule | None = "proximal",
        penalty: str | Penalty = "l1",
        update: str = "sgd",
        prior: str | Prior = "group_laplace",
        infer: str | InferenceMethod = "fista",
        max_iter: int = 10,
        target_active: float | None = None,
        patience: int | None = None,
        kernel: tuple[int, int, int] | None = None,
        stride: int = 1,
        overlap: Overlap | None = None,
        parallel: Parallel = ALONE,
    ) -> None:
        if update not in UPDATES:
            raise OptionError(f"update must be one of {', '.join(map(repr, UPDATES))}; got {update!r}")
        lam, beta = real_number(lam, name="lam"), real_number(beta, name="beta", zero=True, attempt="0.3")
        max_iter, stride = whole_number(max_iter, name="max_iter"), whole_number(stride, name="stride")
        if target_active is not None and not 0 < real_number(target_active, name="target_active") <= phi.shape[1]:
            raise OptionError(f"target_active must lie between 0 and the {phi.shape[1]} groups; got {target_active!r}")
        if patience is not None and whole_number(patience, name="patience", least=-(2**63)) < 1:
            raise OptionError(f"patience must be at least 1 step, or None; got {patience!r}")
        if update == "online" and not (parallel.over_groups is None and kernel is None and overlap is None):
            raise OptionError(
                "the online update keeps moments of whole samples and of all groups, each with atoms of its own; try "
                "update='sgd' with a kernel, an overlap, or groups on several processes"
            )
        if overlap is not None:
            if parallel.over_groups is not None:
                raise OptionError("groups that overlap must be on one process; try to share out patches only")
            phi = overlap.expand(overlap.mean(phi))
        self.phi = parallel.share_of_groups(phi)
        self.kernel = kernel
        self.stride = stride
        self.overlap = overlap
        if kernel is not None:
            Convolution.of(phi, kernel, stride)
        self.lam = lam
        self.beta = beta
        self.rule = None if rule is None else as_rule(rule)
        self.penalty = as_penalty(penalty)
        self.update = update
        self.prior = as_prior(prior)
        self.infer = as_method(infer)
        self.max_iter = max_iter
        self.target_active = target_active
        self.patience = patience
        self.parallel = parallel
        self.steps = 0
        self._rule_name = rule
        self._idle = torch.zeros(phi.shape[1], dtype=torch.int64, device=phi.device)
        atoms = phi.shape[1] * phi.shape[2] if update == "online" else 0
        self._aa = phi.new_zeros((atoms, atoms))
        self._xa = phi.new_zeros((phi.shape[0], atoms))

    def step(self, x: Samples, *, lr: float) -> LearningStep:
        """Make one step.

        Args:
            x: Samples [batch, l] of unit variance; every process is handed the same ones.
            lr: Learning rate η; of no account for the online update.

        Returns:
            The new dictionary and the terms of the objective.

        Raises:
            OptionError: If the energy is no longer finite: the rule has diverged; or if η is negative or no number.

        Cost:
            Inference, max_iter·2·batch·m·n·min(m·n, 2l) flops, dominates; the rule adds 4·m·l·n².
        """
        lr = real_number(lr, name="lr", zero=True, attempt="0.1")
        with torch.no_grad():
            x = self.parallel.share_of_patches(x)
            synthesis = self.parallel.spread(self._synthesis())
            codes = self.infer(x, synthesis, lam=self.lam, prior=self.prior, max_iter=self.max_iter, tol=None).codes
            error = x - synthesis.synthesise(codes)
            active = group_norms(codes) > 0
            # Of larger samples: as many parts as atoms would cover side by side.
            parts = error.numel() / len(error) / len(self.phi)
            own = torch.stack([self.prior.value(codes, self.lam).mean(), active.sum() / (parts * len(x))])
            sparsity, count = self.parallel.sum_over_groups(own)
            scalars = torch.stack([0.5 * error.square().sum() / len(error), sparsity, count])
            used = active.transpose(0, 1).flatten(1).any(dim=1).to(x.dtype)
            if self.update == "sgd":
                pull, scalars, used = self.parallel.mean_over_patches(synthesis.gradient(error, codes), scalars, used)
                moved, orthogonality = self._down_the_gradient(pull, lr)
            else:
                moved, orthogonality, (scalars, used) = self._to_the_minimum(x, codes, scalars, used)
            reconstruction, sparsity, active = scalars.tolist()
            if not math.isfinite(reconstruction + sparsity + orthogonality):
                raise OptionError(
                    f"learning must stay finite; it diverged with lr = {lr:.3g}, beta = {self.beta:g}, "
                    f"rule = {self._rule_name!r}; try a smaller lr or beta, or rule='proximal'"
                )
            self.phi = moved
            self.steps += 1
            replaced = self._replace(error, used)
            if self.target_active is not None:
                self.lam *= math.exp(_GAIN * max(-1.0, min(1.0, active / self.target_active - 1)))
            return LearningStep(self.phi, reconstruction, sparsity, orthogonality, active, replaced)

    def state(self) -> dict[str, Tensor]:
        """Give all that a later learner needs to go on with the same bits; the whole, from every process."""
        state = {
            "phi": self.parallel.whole(self.phi).contiguous(),
            "idle": self._idle.clone(),
            "lam": torch.tensor(self.lam, dtype=torch.float64, device="cpu"),
            "steps": torch.tensor(self.steps, device="cpu"),
        }
        return {**state, "aa": self._aa.clone(), "xa": self._xa.clone()} if self.update == "online" else state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            OptionError: If it is of another dictionary, or of another update.
        """
        expected = {name: tensor.shape for name, tensor in self.state().items()}
        got = {name: tensor.shape for name, tensor in state.items()}
        if expected != got:
            shown = {name: list(shape) for name, shape in got.items()}
            raise OptionError(f"a state must be of the same dictionary and update; got {shown}")
        self.phi = self.parallel.share_of_groups(state["phi"].to(self.phi)).clone()
        self._idle = state["idle"].to(self._idle)
        self.lam, self.steps = float(state["lam"]), int(state["steps"])
        if self.update == "online":
            self._aa, self._xa = state["aa"].to(self._aa), state["xa"].to(self._xa)

    def _synthesis(self) -> Synthesis:
        return Dense(self.phi) if self.kernel is None else Convolution.of(self.phi, self.kernel, self.stride)

    def _down_the_gradient(self, pull: Phi, lr: float) -> tuple[Phi, float]:
        if self.overlap is None:
            moved = torch.add(self.phi, pull, alpha=lr)
            return moved, self._orthogonalize(moved, lr)
        moved = torch.add(self.phi, self.overlap.expand(self.overlap.total(pull)), alpha=lr)
        orthogonality = self._orthogonalize(moved, lr)
        return self.overlap.expand(self.overlap.mean(moved)), orthogonality  # each group has moved its own copies

    def _to_the_minimum(
        self, x: Samples, codes: Codes, scalars: Tensor, used: Tensor
    ) -> tuple[Phi, float, list[Tensor]]:
        flat = codes.flatten(1) / len(x) ** 0.5
        aa, xa, *rest = self.parallel.mean_over_patches(flat.mT @ flat, x.mT @ flat / len(x) ** 0.5, scalars, used)
        # A mean with weights that forget: the first batches were coded by a dictionary that knew nothing.
        share = min(1.0, (1 + _MEMORY) / (self.steps + 1 + _MEMORY))
        self._aa = torch.lerp(self._aa, aa, share)
        self._xa = torch.lerp(self._xa, xa, share)
        length, m, n = self.phi.shape
        blocks = self._aa.view(m, n, m, n).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        curvature = torch.linalg.matrix_norm(blocks, 2)
        floor = 1e-6 * float(curvature.max())
        D = dictionary_matrix(self.phi).clone()
        for i, each in enumerate(curvature.tolist()):
            if each > floor:
                cut = slice(i * n, (i + 1) * n)
                group = torch.addmm(self._xa[:, cut], D, self._aa[:, cut], alpha=-1).mul_(1 / each).add_(D[:, cut])
                group *= n**0.5 / torch.linalg.vector_norm(group).clamp_min(torch.finfo(group.dtype).tiny)
                D[:, cut] = group
        rate = 1 / max(float(curvature[curvature > floor].mean()), 1e-12) if float(curvature.max()) > 0 else 1.0
        moved = D.view(length, m, n)
        return moved, self._orthogonalize(moved, rate), rest

    def _orthogonalize(self, moved: Phi, rate: float) -> float:
        if self.rule is None:
            moved /= torch.linalg.vector_norm(moved, dim=0, keepdim=True)
            return 0.0
        before = step_(moved, lr=rate, beta=self.beta, rule=self.rule, penalty=self.penalty)
        return float(self.parallel.sum_over_groups(before)) / self.beta if self.beta > 0 else 0.0

    def _replace(self, error: Samples, used: Tensor) -> int:
        """Make silent groups anew: each spans what is left of the samples that are coded worst."""
        if self.patience is None:
            return 0
        used = self.parallel.whole(used, dim=0)
        self._idle = torch.where(used > 0, 0, self._idle + 1)
        silent = (self._idle >= self.patience).nonzero()[:, 0].tolist()
        if not silent:
            return 0
        left = self._atom_sized(self.parallel.all_samples(error))
        n = self.phi.shape[2]
        worst = left.square().sum(dim=1).argsort(descending=True)
        replaced = silent[: len(left) // n]
        phi = self.parallel.whole(self.phi).clone()
        for place, group in enumerate(replaced):
            new = torch.linalg.qr(left[worst[place * n : (place + 1) * n]].mT).Q
            phi[:, group] = new
            if self.overlap is not None:
                atoms = self.overlap.mean(phi)
                atoms[:, self.overlap.index[group]] = new
                phi = self.overlap.expand(atoms)
            self._idle[group] = 0
            if self.update == "online":
                cut = slice(group * n, (group + 1) * n)
                self._aa[cut], self._aa[:, cut], self._xa[:, cut] = 0, 0, 0
        self.phi = self.parallel.share_of_groups(phi)
        return len(replaced)

    def _atom_sized(self, error: Samples) -> Float[Tensor, "parts l"]:
        """Cut samples into parts as large as atoms, side by side."""
        if self.kernel is None:
            return error
        _, height, width = self.kernel
        return functional.unfold(error, (height, width), stride=(height, width)).transpose(1, 2).flatten(0, 1)
