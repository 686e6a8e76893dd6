"""A small network, its batches, and what tests ask of its attachment."""

import torch
from torch import Tensor, nn

from gramian import training


def make(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 12, generator=generator)
    return x.to(dtype), torch.randint(3, (16,), generator=generator)


def backward(model: nn.Module, step: int, dtype: torch.dtype = torch.float32) -> None:
    x, y = batch(step, dtype)
    nn.functional.cross_entropy(model(x).float(), y).backward()


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def give_gradients(model: nn.Module) -> None:
    for each in model.parameters():
        each.grad = torch.zeros_like(each)


def names(attachment: training.Attachment) -> list[str]:
    return [each.name for each in attachment.targets]


def reasons(attachment: training.Attachment) -> dict[str, str]:
    return {each.name: each.reason for each in attachment.skipped}


def moved(model: nn.Module, optimizer: torch.optim.Optimizer, *, grads: bool = True) -> list[str]:
    """Which parameters a step with gradients of zero moves: the penalty alone."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    if grads:
        give_gradients(model)
    optimizer.step()
    return [name for name, each in model.named_parameters() if not torch.equal(before[name], each)]
