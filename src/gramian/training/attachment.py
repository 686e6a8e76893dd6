"""The decoupled penalty: an update towards orthonormal groups after every step of an optimiser."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gramian import foreach
from gramian.errors import OptionError
from gramian.layout import Layout
from gramian.objective import as_number, check_beta, residual
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule
from gramian.training.selection import Layouts, Left, Selector, Target, select_parameters
from gramian.training.sharded import is_sharded, plan, sharded_step_
from gramian.typing import Scalar

__all__ = ["Attachment", "attach"]

_MOST_STEPS = 60
"""Newton–Schulz steps from any start; near the manifold each squares the residual, and two or three are enough."""


@dataclass
class Attachment:
    """What `attach` did: the parameters that it acts on, those that it leaves out, and a handle to pause or remove it.

    Attributes:
        targets: The parameters that are acted on.
        left: The others, each with its reason.
        beta: Strength β; infinite for a hard constraint.
        steps: How many times the update was made.
        loss: The loss before the last update, summed over the parameters; a tensor, so that nothing waits for the
            device. None before the first.
        paused: Whether the update is left out for now.
        handle: That of the hook; None when it has been removed.
    """

    targets: list[Target]
    left: list[Left]
    beta: float
    rule: str | Rule
    penalty: str | Penalty
    steps: int = 0
    loss: Scalar | None = None
    paused: bool = False
    handle: RemovableHandle | None = field(default=None, repr=False)

    def pause(self) -> None:
        """Leave the update out until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Make the update again."""
        self.paused = False

    def remove(self) -> None:
        """Take the hook off the optimiser; a second time does nothing."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    @torch.no_grad()
    def residuals(self) -> dict[str, float]:
        """Give the largest |X_jk| of each parameter; this waits for the device."""
        found: dict[str, float] = {}
        for each in self.targets:
            parameter: Any = each.parameter
            whole = parameter.full_tensor() if is_sharded(parameter) else parameter
            found[each.name] = residual(whole, layout=each.layout).abs().max().item()
        return found

    def __str__(self) -> str:
        rows = [("parameter", "shape", "l × m × n", "layout", "why")]
        for each in self.targets:
            spread = is_sharded(each.parameter)
            why = f"{each.reason}; {plan(each.parameter, each.layout, self.rule)}" if spread else each.reason
            sizes = " × ".join(map(str, each.shape))
            rows.append((each.name, _sizes(each.parameter.shape), sizes, each.layout.pattern, why))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        state = "removed" if self.handle is None else "paused" if self.paused else "after every step"
        head = f"β = {self.beta:g}, {state}: {len(self.targets)} parameters"
        width = max((len(each.name) for each in self.left), default=0)
        rest = [f"{each.name.ljust(width)}  {each.reason}" for each in self.left]
        return "\n".join([head, *lines, *(["left out:", *rest] if rest else [])])


def _sizes(shape: torch.Size) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def attach(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    beta: float,
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
) -> Attachment:
    r"""Keep weights orthogonal: after every `optimizer.step()`, one update with that parameter group's learning rate.

    Decoupled, as AdamW's weight decay is: the penalty passes through no moment estimate and no loss scale, and has no
    state to save. A step that a gradient scaler skips is skipped; so is a parameter whose gradient is None.

    By default the weights of linear layers (rows, or columns where they are fewer), convolutions (the filters of each
    group), attention (the rows of each head of q, k and v, the columns of each head of the output) and recurrent layers
    (each gate) are taken; embeddings, norms, biases and depthwise filters are left out unless they are selected.
    `print(attachment)` shows every parameter and why it is taken or not.

    Copies and pickles of an optimiser do not carry its hooks: attach them anew.

    Args:
        optimizer: Any optimiser of torch or with its step hooks; written to.
        model: Whose parameters are looked through; all that are taken must be in the optimiser.
        beta: Strength β ≥ 0: 2β is the pull of a task on one inner product that the penalty just holds at zero, the
            same for every layer. `math.inf` is a hard constraint: the weights are made orthonormal at once, and again
            after every step, by Newton–Schulz steps to rounding.
        select: Which parameters: a glob of names, several, a compiled regular expression, or a function of name and
            parameter.
        layouts: Layouts by glob or regular expression; or one for all.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.

    Returns:
        The attachment.

    Raises:
        OptionError: If nothing is selected, a pattern matches nothing, a selected parameter is frozen,
            re-parametrised or not in the optimiser, or β, rule or penalty are no such.
        LayoutError: If a selected parameter has no layout, or does not fit it.

    Cost:
        4·m·l·n² flops for each parameter and step; small ones of the same shape together.

    Examples:
        >>> import torch, gramian
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        >>> attachment = gramian.attach(optimizer, model, beta=10.0)
        >>> print(attachment)
        β = 10, after every step: 2 parameters
        parameter  shape     l × m × n    layout         why
        0.weight   [32, 64]  64 × 1 × 32  o i -> i () o  rows of Linear
        2.weight   [10, 32]  32 × 1 × 10  o i -> i () o  rows of Linear
        left out:
        0.bias  a bias
        2.bias  a bias
        >>> inputs = torch.randn(256, 64)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     (model(inputs) - inputs[:, :10]).square().mean().backward()
        ...     optimizer.step()
        >>> max(attachment.residuals().values()) < 0.05
        True
    """
    if not isinstance(optimizer, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}")
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    strength = as_number(beta, "beta")
    hard = strength == math.inf
    strength = strength if hard else check_beta(strength)
    as_rule(rule)
    as_penalty(penalty)
    if hard and rule not in ("proximal",):
        raise OptionError(f"a hard constraint needs the proximal rule; got {rule!r}; try a finite beta")
    targets, left = select_parameters(model, select, layouts)
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    strangers = [each.name for each in targets if id(each.parameter) not in owned]
    if strangers:
        raise OptionError(
            f"every selected parameter must be in the optimizer; got {', '.join(strangers[:6])}"
            f"{', …' if len(strangers) > 6 else ''}, which it does not own; try select without them"
        )
    attachment = Attachment(targets, left, strength, rule, penalty)
    by_parameter = {id(each.parameter): each for each in targets}
    if hard:
        _restore(targets)

    @torch.no_grad()
    def after_step(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        found = getattr(stepped, "found_inf", None)  # a gradient scaler told a fused optimiser to skip
        if attachment.paused or (found is not None and bool(found)):
            return
        losses = list(_update(stepped, by_parameter, attachment))
        if losses:
            attachment.loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            attachment.steps += 1

    hook: Any = torch.compiler.disable(after_step)  # a compiled step of the optimiser must not look into it
    attachment.handle = optimizer.register_step_post_hook(hook)
    return attachment


def _update(optimizer: Optimizer, targets: dict[int, Target], attachment: Attachment) -> Iterator[Scalar]:
    # The groups are looked up at every step: a schedule changes their rate, a loaded checkpoint the groups themselves.
    for group in optimizer.param_groups:
        mine = [targets[id(p)] for p in group["params"] if id(p) in targets and p.grad is not None]
        if not mine:
            continue
        if attachment.beta == math.inf:
            yield _restore(mine)
            continue
        lr = float(group["lr"])
        yield from _step(mine, lr=lr, beta=attachment.beta, rule=attachment.rule, penalty=attachment.penalty)


def _step(
    targets: list[Target], *, lr: float, beta: float = 1.0, rule: str | Rule = "proximal", penalty: str | Penalty = "l1"
) -> Iterator[Scalar]:
    """Step parameters in place: those that are spread over processes one by one, the others together."""
    whole = [each for each in targets if not is_sharded(each.parameter)]
    for each in targets:
        if is_sharded(each.parameter):
            yield sharded_step_(each.parameter, lr=lr, beta=beta, rule=rule, penalty=penalty, layout=each.layout)
    if whole:
        yield foreach.step_(
            [each.parameter for each in whole], lr=lr, beta=beta, rule=rule, penalty=penalty,
            layouts=[each.layout for each in whole],
        )  # fmt: skip


def _restore(targets: list[Target]) -> Scalar:
    """Make weights orthonormal to rounding, by Newton–Schulz steps; give the loss before them."""
    rounding = 0.0
    for each in targets:
        _, m, n = each.shape
        eps = torch.finfo(each.parameter.dtype).eps
        rounding += m * n * n * (4 * eps if eps < 1e-6 else eps / 4)
    losses: list[Scalar] = []
    while len(losses) < _MOST_STEPS and not (losses and float(losses[-1]) <= rounding):
        losses.append(torch.stack([loss.double() for loss in _step(targets, lr=math.inf)]).sum())
    return losses[0]
