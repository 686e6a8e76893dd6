"""Dictionary learning, one batch in each step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gramian.coding.inference import as_method
from gramian.coding.learning.options import LearningOptions
from gramian.coding.model import Codes, dictionary_matrix, group_norms
from gramian.coding.priors import as_prior
from gramian.coding.synthesis import Convolution, Dense, Overlap, Samples, Synthesis, shard
from gramian.distributed.process_grid import SINGLE, ProcessGrid
from gramian.errors import OptionError
from gramian.options import real_number, whole_number
from gramian.penalties import as_penalty
from gramian.rules import as_rule, step_
from gramian.typing import Phi

__all__ = ["Learner", "LearningStep"]

_MEMORY = 10.0
"""Speed of forgetting: after t steps, batches older than about t/10 steps have little weight."""
_GAIN = 0.05
"""Largest relative change of λ in one step."""


@dataclass(frozen=True)
class LearningStep:
    """The result of one learning step.

    Attributes:
        phi: The new dictionary.
        reconstruction: Mean over the batch of ½‖x − Σ Φ_i a_i‖², before the step.
        sparsity: Mean of −log p(a), λ Σ ‖a_i‖ for the group Laplace prior, before the step.
        orthogonality: Σ_i μ(Φ_iᵀΦ_i − I) after the gradient, before the orthogonality step; 0 without a rule.
        active_groups: Mean number of nonzero groups; for a convolution, per part of a sample of the size of an atom.
        replaced: Number of silent groups that were replaced.
    """

    phi: Phi
    reconstruction: float
    sparsity: float
    orthogonality: float
    active_groups: float
    replaced: int = 0


class Learner:
    r"""Learn a dictionary from batches: infer codes, update the dictionary, make its groups orthonormal.

    With `update="sgd"`, a step computes Φ ← Φ + η·mean_x (x − Σ Φ_i a_i) aᵀ and then applies the rule with the same η:
    the penalty is not part of the gradient. With `update="online"`, a step averages the moments aaᵀ and xaᵀ over all
    batches so far and sweeps once over the groups: it minimises a quadratic upper bound of the error over each group,
    scaled to norm √n. It then applies the rule with the inverse of the mean curvature as η. Without a rule, a step only
    scales atoms to unit length, which otherwise would grow without bound.

    Args:
        phi: The initial dictionary, Φ[l, m, n]; it is not modified.
        options: Options of learning; by default `LearningOptions()`.
        kernel: Shape (channels, height, width) of atoms that are placed at all positions of larger samples, in a
            convolution; None for atoms as long as samples.
        stride: Distance between two positions of a kernel.
        overlap: The atoms that groups share; None for groups that share none.
        grid: The processes among which samples and groups are divided.

    Attributes:
        phi: The dictionary; with groups on several processes, the groups of this process.
        options: Options of learning.
        lam: Current sparsity λ.
        steps: Number of steps so far.

    Raises:
        OptionError: If an option is out of range.

    Examples:
        >>> import torch
        >>> from gramian.coding import LearningOptions, initial_dictionary
        >>> learner = Learner(initial_dictionary(16, 4, 2, seed=0), LearningOptions(lam=0.5, beta=0.1))
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
        options: LearningOptions | None = None,
        *,
        kernel: tuple[int, int, int] | None = None,
        stride: int = 1,
        overlap: Overlap | None = None,
        grid: ProcessGrid = SINGLE,
    ) -> None:
        options = options or LearningOptions()
        stride = whole_number(stride, name="stride")
        if options.target_active is not None and options.target_active > phi.shape[1]:
            raise OptionError(
                f"target_active must be between 0 and {phi.shape[1]}, the number of groups; got "
                f"{options.target_active!r}"
            )
        if options.update == "online" and not (grid.over_groups is None and kernel is None and overlap is None):
            raise OptionError(
                "update='online' must have atoms as long as samples, and groups on one process that share no atoms; "
                "got a kernel, an overlap, or groups on several processes; try update='sgd'"
            )
        if overlap is not None:
            if grid.over_groups is not None:
                raise OptionError(
                    "groups that overlap must be on one process; got several; try to distribute samples only"
                )
            phi = overlap.expand(overlap.mean(phi))
        self.phi = grid.local_groups(phi)
        self.kernel = kernel
        self.stride = stride
        self.overlap = overlap
        if kernel is not None:
            Convolution.of(phi, kernel, stride)
        self.options = options
        self.lam = float(options.lam)
        self.rule = None if options.rule is None else as_rule(options.rule)
        self.penalty = as_penalty(options.penalty)
        self.prior = as_prior(options.prior)
        self.infer = as_method(options.infer)
        self.grid = grid
        self.steps = 0
        self._idle = torch.zeros(phi.shape[1], dtype=torch.int64, device=phi.device)
        atoms = phi.shape[1] * phi.shape[2] if options.update == "online" else 0
        self._aa = phi.new_zeros((atoms, atoms))
        self._xa = phi.new_zeros((phi.shape[0], atoms))

    def step(self, x: Samples, *, lr: float, replace_silent: bool = True) -> LearningStep:
        """Make one learning step.

        Args:
            x: Samples [batch, l] of unit variance, the same on every process.
            lr: Learning rate η; the online update ignores it.
            replace_silent: If true, replace groups that have been silent for `patience` steps.

        Returns:
            The new dictionary and the terms of the objective.

        Raises:
            OptionError: If η is negative or not a number, or the energy is no longer finite because learning diverged.

        Cost:
            Inference, iterations·2·batch·m·n·min(m·n, 2l) flops, dominates; the rule adds 4·m·l·n².
        """
        lr = real_number(lr, name="lr", zero=True, attempt="0.1")
        with torch.no_grad():
            x = self.grid.local_samples(x)
            synthesis = shard(self._synthesis(), self.grid)
            codes = self.infer(
                x, synthesis, lam=self.lam, prior=self.prior, max_iter=self.options.iterations, tol=None
            ).codes
            error = x - synthesis.synthesise(codes)
            active = group_norms(codes) > 0
            # The number of atoms that fit side by side into a sample; 1 for atoms as long as samples.
            parts = error.numel() / len(error) / len(self.phi)
            local = torch.stack([self.prior.value(codes, self.lam).mean(), active.sum() / (parts * len(x))])
            sparsity, count = self.grid.sum_over_groups(local)
            scalars = torch.stack([0.5 * error.square().sum() / len(error), sparsity, count])
            used = active.transpose(0, 1).flatten(1).any(dim=1).to(x.dtype)
            if self.options.update == "sgd":
                gradient, scalars, used = self.grid.mean_over_samples(synthesis.gradient(error, codes), scalars, used)
                new_phi, orthogonality = self._gradient_update(gradient, lr)
            else:
                new_phi, orthogonality, (scalars, used) = self._online_update(x, codes, scalars, used)
            reconstruction, sparsity, active = scalars.tolist()
            if not math.isfinite(reconstruction + sparsity + orthogonality):
                raise OptionError(
                    f"learning must stay finite; it diverged with lr = {lr:.3g}, beta = {self.options.beta:g}, "
                    f"rule = {self.options.rule!r}; try a smaller lr or beta, or rule='proximal'"
                )
            self.phi = new_phi
            self.steps += 1
            replaced = self._replace(error, used) if replace_silent else 0
            if self.options.target_active is not None:
                self.lam *= math.exp(_GAIN * max(-1.0, min(1.0, active / self.options.target_active - 1)))
            return LearningStep(self.phi, reconstruction, sparsity, orthogonality, active, replaced)

    def state(self) -> dict[str, Tensor]:
        """Return the state of the whole dictionary, the same on every process; a learner continues exactly from it."""
        state = {
            "phi": self.grid.gather_groups(self.phi).contiguous(),
            "idle": self._idle.clone(),
            "lam": torch.tensor(self.lam, dtype=torch.float64, device="cpu"),
            "steps": torch.tensor(self.steps, device="cpu"),
        }
        return {**state, "aa": self._aa.clone(), "xa": self._xa.clone()} if self.options.update == "online" else state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            OptionError: If the state belongs to another shape of dictionary or another update.
        """
        expected = {name: list(tensor.shape) for name, tensor in self.state().items()}
        shapes = {name: list(tensor.shape) for name, tensor in state.items()}
        if shapes != expected:
            raise OptionError(f"a state must be of the same dictionary and update, {expected}; got {shapes}")
        self.phi = self.grid.local_groups(state["phi"].to(self.phi)).clone()
        self._idle = state["idle"].to(self._idle)
        self.lam, self.steps = float(state["lam"]), int(state["steps"])
        if self.options.update == "online":
            self._aa, self._xa = state["aa"].to(self._aa), state["xa"].to(self._xa)

    def _synthesis(self) -> Synthesis:
        return Dense(self.phi) if self.kernel is None else Convolution.of(self.phi, self.kernel, self.stride)

    def _gradient_update(self, gradient: Phi, lr: float) -> tuple[Phi, float]:
        if self.overlap is None:
            new_phi = torch.add(self.phi, gradient, alpha=lr)
            return new_phi, self._orthogonalize(new_phi, lr)
        new_phi = torch.add(self.phi, self.overlap.expand(self.overlap.total(gradient)), alpha=lr)
        orthogonality = self._orthogonalize(new_phi, lr)
        # The rule changed the copies of an atom separately: average them.
        return self.overlap.expand(self.overlap.mean(new_phi)), orthogonality

    def _online_update(
        self, x: Samples, codes: Codes, scalars: Tensor, used: Tensor
    ) -> tuple[Phi, float, list[Tensor]]:
        flat = codes.flatten(1) / len(x) ** 0.5
        aa, xa, *rest = self.grid.mean_over_samples(flat.mT @ flat, x.mT @ flat / len(x) ** 0.5, scalars, used)
        # The weights of this mean decay, because the codes of the first batches belong to an untrained dictionary.
        weight = min(1.0, (1 + _MEMORY) / (self.steps + 1 + _MEMORY))
        self._aa = torch.lerp(self._aa, aa, weight)
        self._xa = torch.lerp(self._xa, xa, weight)
        length, m, n = self.phi.shape
        blocks = self._aa.view(m, n, m, n).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        curvature = torch.linalg.matrix_norm(blocks, 2)
        floor = 1e-6 * float(curvature.max())
        D = dictionary_matrix(self.phi).clone()
        for i, bound in enumerate(curvature.tolist()):
            if bound > floor:
                columns = slice(i * n, (i + 1) * n)
                group = torch.addmm(self._xa[:, columns], D, self._aa[:, columns], alpha=-1)
                group = group.mul_(1 / bound).add_(D[:, columns])
                group *= n**0.5 / torch.linalg.vector_norm(group).clamp_min(torch.finfo(group.dtype).tiny)
                D[:, columns] = group
        rate = 1 / max(float(curvature[curvature > floor].mean()), 1e-12) if float(curvature.max()) > 0 else 1.0
        new_phi = D.view(length, m, n)
        return new_phi, self._orthogonalize(new_phi, rate), rest

    def _orthogonalize(self, phi: Phi, rate: float) -> float:
        if self.rule is None:
            phi /= torch.linalg.vector_norm(phi, dim=0, keepdim=True)
            return 0.0
        value = step_(phi, lr=rate, beta=self.options.beta, rule=self.rule, penalty=self.penalty)
        return float(self.grid.sum_over_groups(value)) / self.options.beta if self.options.beta > 0 else 0.0

    def _replace(self, error: Samples, used: Tensor) -> int:
        """Replace silent groups by orthonormal bases of the largest reconstruction errors; return their number."""
        patience = self.options.patience
        if patience is None:
            return 0
        used = self.grid.gather_groups(used, dim=0)
        self._idle = torch.where(used > 0, 0, self._idle + 1)
        silent = (self._idle >= patience).nonzero()[:, 0].tolist()
        if not silent:
            return 0
        residuals = self._atom_sized(self.grid.gather_samples(error))
        n = self.phi.shape[2]
        worst = residuals.square().sum(dim=1).argsort(descending=True)
        replaced = silent[: len(residuals) // n]
        phi = self.grid.gather_groups(self.phi).clone()
        for k, group in enumerate(replaced):
            basis = torch.linalg.qr(residuals[worst[k * n : (k + 1) * n]].mT).Q
            phi[:, group] = basis
            if self.overlap is not None:
                atoms = self.overlap.mean(phi)
                atoms[:, self.overlap.index[group]] = basis
                phi = self.overlap.expand(atoms)
            self._idle[group] = 0
            if self.options.update == "online":
                columns = slice(group * n, (group + 1) * n)
                self._aa[columns], self._aa[:, columns], self._xa[:, columns] = 0, 0, 0
        self.phi = self.grid.local_groups(phi)
        return len(replaced)

    def _atom_sized(self, error: Samples) -> Float[Tensor, "parts l"]:
        """Split samples into adjacent parts of the size of an atom."""
        if self.kernel is None:
            return error
        _, height, width = self.kernel
        return functional.unfold(error, (height, width), stride=(height, width)).transpose(1, 2).flatten(0, 1)
