"""Training of a module of block-sparse features, one batch in each step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gramian.coding.features.module import BlockSparseAutoencoder
from gramian.coding.features.revival import revive_
from gramian.errors import OptionError

__all__ = ["FeatureStep", "FeatureTraining", "OptimizerFactory", "SchedulerFactory"]

OptimizerFactory = Callable[[Any], Optimizer]
"""A function of the parameters that returns their optimiser, such as `functools.partial(torch.optim.Adam, lr=1e-3)`."""

SchedulerFactory = Callable[[Optimizer], Any]
"""A function of an optimiser that returns a schedule of its learning rate with a method `step`."""


@dataclass(frozen=True)
class FeatureStep:
    """The result of one training step.

    Attributes:
        loss: The loss.
        active_groups: Mean number of active groups.
        revived: Number of idle groups that were replaced.
    """

    loss: float
    active_groups: float
    revived: int = 0


class FeatureTraining:
    """Train a module: gradient step, schedule, orthonormal frames, and revival of idle groups.

    Args:
        model: The module; it is trained in place.
        lr: Learning rate of Adam, used if `optimizer` is None.
        beta: Strength of the orthogonality penalty; infinite for a hard constraint, 0 for none.
        optimizer: A function of the parameters that returns the optimiser; default Adam.
        scheduler: A function of the optimiser that returns a schedule of PyTorch; default a constant learning rate.
        patience: Number of batches without activity after which a group is replaced where it is missed; None never
            replaces groups. Every `patience` batches the dictionary is searched for missed subspaces.

    Attributes:
        steps: Number of steps so far.

    Examples:
        >>> import torch
        >>> model = BlockSparseAutoencoder(16, n_groups=8, group_size=2, active=2)
        >>> training = FeatureTraining(model, lr=1e-3)
        >>> training.step(torch.randn(64, 16)).active_groups
        2.0
    """

    def __init__(
        self,
        model: BlockSparseAutoencoder,
        *,
        lr: float = 3e-3,
        beta: float = math.inf,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        patience: int | None = 200,
    ) -> None:
        self.model = model
        self.optimizer = optimizer(model.parameters()) if optimizer else torch.optim.Adam(model.parameters(), lr=lr)
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.attachment = model.keep_orthonormal(self.optimizer, beta=beta) if beta > 0 else None
        self.patience = patience
        self.steps = 0

    def step(self, x: Float[Tensor, "batch l"], *, revive: bool = True) -> FeatureStep:
        """Make one training step.

        Args:
            x: Samples, scaled so that E‖x‖ = √l.
            revive: If true, idle groups may be replaced.

        Raises:
            OptionError: If the loss is no longer finite.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(x)
        output.loss.backward()
        loss = float(output.loss.detach())
        if not math.isfinite(loss):
            raise OptionError(f"training must stay finite; the loss is {loss} in step {self.steps}; try a smaller lr")
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1
        active = float(output.codes.active_groups.double().mean()) if len(x) else 0.0
        revived = 0
        if revive and self.patience is not None and self.steps % self.patience == 0:
            revived = revive_(self.model, x, patience=self.patience, optimizer=self.optimizer)
        return FeatureStep(loss, active, revived)
