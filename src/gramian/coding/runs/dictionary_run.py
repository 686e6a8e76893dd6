"""A learning run with inference in every step: the run of a `Learner`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from gramian.coding.energy import energy
from gramian.coding.evaluation.measures import snr
from gramian.coding.inference import Inference, as_method
from gramian.coding.learning.calibration import calibrated_lam
from gramian.coding.learning.learner import Learner, LearningStep
from gramian.coding.learning.options import LearningOptions
from gramian.coding.model import Codes, group_norms, reconstruct
from gramian.coding.priors import as_prior
from gramian.coding.runs.metrics import Row
from gramian.coding.runs.run import REPLACING, Run, RunOptions
from gramian.coding.synthesis import Samples
from gramian.kernels import reference
from gramian.penalties import as_penalty
from gramian.typing import Phi

__all__ = ["DictionaryOptions", "DictionaryRun"]

_CALIBRATION_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class DictionaryOptions(RunOptions, LearningOptions):
    """The options of learning and of its loop; rule, penalty, prior and inference method are names.

    Attributes:
        spread: Number of processes among which groups are divided, under torchrun.
    """

    rule: str = "proximal"
    penalty: str = "l1"
    prior: str = "group_laplace"
    infer: str = "auto"
    spread: int = 1


Options = TypeVar("Options", bound=DictionaryOptions)


class DictionaryRun(Run[Options]):
    """A learning run of a `Learner`.

    Args:
        settings: Options of the run.

    Attributes:
        learner: The learner.
        initial_phi: The dictionary before the first step.
    """

    measured = (
        *("step", "seconds", "lr", "lam", "energy", "reconstruction", "sparsity", "orthogonality", "residual"),
        *("active_groups", "snr"),
    )
    learner: Learner
    initial_phi: Phi

    def __init__(self, settings: Options) -> None:
        super().__init__(settings)
        self._phi: tuple[Tensor, Tensor] | None = None

    @property
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n] with the groups of all processes, on the CPU."""
        if self._phi is None or self._phi[0] is not self.learner.phi:
            self._phi = self.learner.phi, self.grid.gather_groups(self.learner.phi).cpu()
        return self._phi[1]

    @property
    def step(self) -> int:
        """Number of steps so far."""
        return self.learner.steps

    def state(self) -> dict[str, Tensor]:
        """Return the state of the learner."""
        return self.learner.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state of the learner."""
        self.learner.load(state)

    def advance(self) -> LearningStep:
        """Make one learning step."""
        batch = self.batch(self.step).to(self.settings.device)
        step = self.learner.step(batch, lr=self.lr, replace_silent=self.step < REPLACING * self.settings.steps)
        if self.finished and self.settings.target_active is not None:
            self.learner.lam = calibrated_lam(
                torch.cat([self.batch(self.step + extra) for extra in range(_CALIBRATION_BATCHES)]),
                self.phi,
                lam=self.learner.lam,
                prior=as_prior(self.settings.prior),
                infer=as_method(self.settings.infer),
                target=self.settings.target_active,
                max_iter=1000,
                tol=1e-3,
            )
        return step

    def encode(self, x: Samples) -> Inference:
        """Infer the codes of samples, to a relative duality gap of 0.1 %."""
        method = as_method(self.settings.infer)
        return method(x, self.phi, lam=self.learner.lam, prior=self.settings.prior, max_iter=1000, tol=1e-3)

    def measures(self, x: Samples, codes: Codes, *, seconds: float) -> Row:
        """Return the metrics of a dictionary, for held-out samples and their codes."""
        terms = energy(x, self.phi, codes, self.learner.lam, as_prior(self.settings.prior))
        X = reference.residual(self.phi)
        return {
            "step": self.step,
            "seconds": round(seconds, 2),
            "lr": self.lr,
            "lam": self.learner.lam,
            "energy": float(terms.total.mean()),
            "reconstruction": float(terms.reconstruction.mean()),
            "sparsity": float(terms.sparsity.mean()),
            "orthogonality": float(as_penalty(self.settings.penalty).value(X).sum()),
            "residual": float(X.abs().max()),
            "active_groups": float((group_norms(codes) > 0).sum(dim=1).double().mean()),
            "snr": snr(x, reconstruct(self.phi, codes)),
        }
