"""Training of a module of block-sparse features, one batch in each step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gramian.coding.features.module import BlockSparseAutoencoder
from gramian.coding.features.revival import revive_
from gramian.distributed.process_grid import SINGLE, ProcessGrid
from gramian.errors import OptionError

__all__ = ["FeatureStep", "FeatureTraining", "OptimizerFactory", "SchedulerFactory"]

OptimizerFactory = Callable[[Any], Optimizer]
"""A function of the parameters that returns their optimiser, such as `functools.partial(torch.optim.Adam, lr=1e-3)`."""

_MODULE, _OPTIMIZER = "module.", "optimizer."
"""Prefixes of the names of a state."""

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
        optimizer: A function of the parameters that returns the optimiser; by default Adam.
        scheduler: A function of the optimiser that returns a schedule of PyTorch; by default the learning rate is
            constant.
        patience: Number of batches without activity after which a group may be replaced; None never replaces groups.
            Every `patience` batches, samples are searched for subspaces that the dictionary misses.
        grid: The processes among which samples are divided, by DistributedDataParallel.

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
        grid: ProcessGrid = SINGLE,
    ) -> None:
        self.model = model
        self.grid = grid
        self._forward: nn.Module = (
            # The buffers are the same in all processes, because what they track is averaged.
            model
            if grid.over_samples is None
            else DistributedDataParallel(model, process_group=grid.over_samples, broadcast_buffers=False)
        )
        self.optimizer = optimizer(model.parameters()) if optimizer else torch.optim.Adam(model.parameters(), lr=lr)
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.attachment = model.keep_orthonormal(self.optimizer, beta=beta) if beta > 0 else None
        self.patience = patience
        self.steps = 0

    def step(self, x: Float[Tensor, "batch l"], *, revive: bool = True) -> FeatureStep:
        """Make one training step.

        Args:
            x: Samples, scaled so that E‖x‖ = √l; with several processes, each has different ones, equally many.
            revive: If true, idle groups may be replaced.

        Raises:
            OptionError: If the loss is no longer finite.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        output = self._forward(x)
        output.loss.backward()
        active = output.codes.active_groups.to(x.dtype).mean() if len(x) else x.new_zeros(())
        loss, active = (float(mean) for mean in self.grid.mean_over_samples(output.loss.detach(), active))
        if not math.isfinite(loss):
            raise OptionError(f"training must stay finite; the loss is {loss} in step {self.steps}; try a smaller lr")
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1
        revived = 0
        if revive and self.patience is not None and self.steps % self.patience == 0:
            samples = self.grid.gather_samples(x)  # so that all processes find the same subspaces
            revived = revive_(self.model, samples, patience=self.patience, optimizer=self.optimizer)
        return FeatureStep(loss, active, revived)

    def state(self) -> dict[str, Tensor]:
        """Return copies of the tensors of the module (`module.NAME`) and of the optimiser (`optimizer.NAME.MOMENT`).

        Training continues exactly from them, with the same options; a schedule is not part of them.
        """
        state = {_MODULE + name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"{_OPTIMIZER}{name}.{moment}"] = value.clone()
        return {**state, "steps": torch.tensor(self.steps)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            OptionError: If it is the state of a module with other options.
        """
        module = {name.removeprefix(_MODULE): each for name, each in state.items() if name.startswith(_MODULE)}
        try:
            self.model.load_state_dict(module)
        except RuntimeError as error:
            raise OptionError(f"a state must be of a module with the same options; got another: {error}") from error
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            prefix = f"{_OPTIMIZER}{names[id(parameter)]}."
            moments[number] = {n.removeprefix(prefix): each for n, each in state.items() if n.startswith(prefix)}
            if any(each.ndim and each.shape != parameter.shape for each in moments[number].values()):
                raise OptionError(f"a state must have moments of the shape of {names[id(parameter)]}; got another")
        groups = self.optimizer.state_dict()["param_groups"]
        kept = {number: values for number, values in moments.items() if values}
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        self.steps = int(state["steps"])
