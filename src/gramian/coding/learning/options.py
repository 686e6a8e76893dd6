"""The options of dictionary learning, with their defaults and checks."""

from dataclasses import dataclass

from gramian.coding.inference import InferenceMethod, check_method
from gramian.coding.priors import Prior, as_prior
from gramian.errors import OptionError
from gramian.options import real_number, whole_number
from gramian.penalties import Penalty
from gramian.rules import Rule

__all__ = ["UPDATES", "LearningOptions"]

UPDATES = ("sgd", "online")
"""How a step updates the dictionary: by the gradient of the batch, or by minimisation over all batches so far."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """The options of a learning step.

    `Learner`, `SubspaceSparseCoding`, the settings of a run and the command line share these options and
    defaults. The caller of the step chooses learning rate, number of steps and batch size.

    Attributes:
        lam: Sparsity λ > 0, in units of the samples' standard deviation; with `target_active`, the initial λ.
        beta: Strength β ≥ 0 of the orthogonality penalty.
        rule: Update rule of the orthogonality step, a name or a `Rule`; None for no penalty.
        penalty: Penalty μ, a name or a `Penalty`.
        update: How a step updates the dictionary, 'sgd' or 'online'.
        prior: Prior of the codes, a name or a `Prior`.
        infer: Inference method, a name or an `InferenceMethod`.
        iterations: Iterations of inference in a learning step; `block_omp` takes as many as its rule needs.
        target_active: Target for the mean number of active groups, reached by adapting λ; None keeps λ constant.
        patience: Number of steps without activity after which a group is replaced; None never replaces groups.

    Raises:
        OptionError: If an option is out of range.

    Examples:
        >>> LearningOptions(lam=0.5).beta
        0.3
    """

    lam: float = 2.0
    beta: float = 0.3
    rule: str | Rule | None = "proximal"
    penalty: str | Penalty = "l1"
    update: str = "sgd"
    prior: str | Prior = "group_laplace"
    infer: str | InferenceMethod = "auto"
    iterations: int = 10
    target_active: float | None = None
    patience: int | None = 200

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise OptionError(f"update must be one of {', '.join(map(repr, UPDATES))}; got {self.update!r}")
        real_number(self.lam, name="lam")
        real_number(self.beta, name="beta", zero=True, attempt="0.3")
        check_method(self.infer, as_prior(self.prior))
        whole_number(self.iterations, name="iterations")
        if self.target_active is not None:
            real_number(self.target_active, name="target_active")
        if self.patience is not None and whole_number(self.patience, name="patience", least=-(2**63)) < 1:
            raise OptionError(f"patience must be at least 1 step, or None; got {self.patience!r}")
