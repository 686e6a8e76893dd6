"""The decoupled penalty: an update towards orthonormal groups after every step of an optimiser."""

import math
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gramian.errors import AttachmentWarning, OptionError
from gramian.layout import Layout
from gramian.objective import as_number, check_beta, residual
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, proximal
from gramian.training.compatibility import check_fit
from gramian.training.constraint import restore_targets_, step_targets_
from gramian.training.coupled import add_up
from gramian.training.following import Following
from gramian.training.selection import Layouts, Left, Selector, Target, as_selector, select_parameters
from gramian.training.sharded import is_sharded, plan
from gramian.training.wrappers import unwrap_optimizer, whole_tensor
from gramian.typing import Scalar

__all__ = ["Attachment", "attach"]

_live: "weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Attachment]]" = weakref.WeakKeyDictionary()
"""The attachments of each optimiser; neither is kept alive by this."""


@dataclass(eq=False)
class Attachment:
    """What `attach` did: the parameters that it acts on, those that it leaves out, and a handle to pause or remove it.

    A copy, or what comes out of a pickle, has the same lists, of its own parameters, but is attached to nothing: its
    `handle` is None.

    Attributes:
        targets: The parameters that are acted on.
        left: The others, each with its reason.
        beta: Strength β; infinite for a hard constraint.
        steps: How many times the update was made.
        loss: The loss before the last update, summed over the parameters; a tensor, so that nothing waits for the
            device. None before the first.
        paused: Whether the update is left out for now.
        handle: That of the hook; None when it has been removed, and in a copy.
        following: What looks the parameters up again at every step; None in a copy.
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
    following: Following | None = field(default=None, repr=False)
    _copied: bool = field(default=False, repr=False)

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
        return {
            each.name: residual(whole_tensor(each.parameter), layout=each.layout).abs().max().item()
            for each in self.targets
        }

    def __getstate__(self) -> dict[str, Any]:
        # The hook belongs to the optimiser, whose copies have none either.
        return {**vars(self), "handle": None, "following": None, "_copied": self._copied or self.handle is not None}

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
        head = f"β = {self.beta:g}, {self._state()}: {len(self.targets)} parameters"
        width = max((len(each.name) for each in self.left), default=0)
        rest = [f"{each.name.ljust(width)}  {each.reason}" for each in self.left]
        return "\n".join([head, *lines, *(["left out:", *rest] if rest else [])])

    def _state(self) -> str:
        if self.handle is None:
            return "a copy that is attached to nothing (attach anew)" if self._copied else "removed"
        return "paused" if self.paused else "after every step"


def _sizes(shape: torch.Size) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def attach(
    optimizer: Any,
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

    A parameter has one attachment for each optimiser: a later `attach` takes over those that both select, with a
    warning. Tensors that are replaced in the model are followed if the optimiser has them; what `add_param_group` adds
    is taken if the same choice selects it; what is frozen rests. Copies and pickles of an optimiser do not carry its
    hooks, and those of an attachment act on nothing: attach anew.

    Args:
        optimizer: Any optimiser of torch or with its step hooks, or a wrapper that holds one as `.optimizer`; written
            to.
        model: Whose parameters are looked through; all that are taken must be in the optimiser. Names are without the
            prefixes of wrappers.
        beta: Strength β ≥ 0: 2β is the pull of a task on one inner product that the penalty just holds at zero, the
            same for every layer. `math.inf` is a hard constraint: the weights are made orthonormal at once, and again
            after every step, by Newton–Schulz steps to rounding, as far as the penalty sees them.
        select: Which parameters: a glob of names, several, a compiled regular expression, or a function of name and
            parameter.
        layouts: Layouts by glob or regular expression; or one for all.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.

    Returns:
        The attachment.

    Raises:
        OptionError: If nothing is selected, a pattern matches nothing, a selected parameter is frozen, lazy,
            re-parametrised, without values or not in the optimiser, or β, rule or penalty are no such, or do not go
            together.
        ShapeError: If a parameter has n > l and β is infinite or the rule is 'polyak'.
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
    stepper = unwrap_optimizer(optimizer)
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    strength = as_number(beta, "beta")
    hard = strength == math.inf
    strength = strength if hard else check_beta(beta)
    update, mu, choice = as_rule(rule), as_penalty(penalty), as_selector(select)
    if hard and update is not proximal:
        raise OptionError(f"a hard constraint needs the proximal rule; got {rule!r}; try a finite beta")
    targets, left = select_parameters(model, choice, layouts)
    owned = {id(parameter) for group in stepper.param_groups for parameter in group["params"]}
    strangers = [each.name for each in targets if id(each.parameter) not in owned]
    if strangers:
        raise OptionError(
            f"every selected parameter must be in the optimizer; got {', '.join(strangers[:6])}"
            f"{', …' if len(strangers) > 6 else ''}, which it does not own; try select without them"
        )
    check_fit(targets, update, mu, hard=hard)
    following = Following(
        model, stepper, targets=targets, left=left, select=choice, layouts=layouts, taken=_taken,
        check=lambda target: check_fit([target], update, mu, hard=hard),
    )  # fmt: skip
    attachment = Attachment(targets, left, strength, rule, penalty, following=following)
    replaced = _take_over(stepper, attachment)
    if replaced:
        warnings.warn(
            f"an earlier attachment on this optimizer acts no longer on {', '.join(replaced[:6])}"
            f"{', …' if len(replaced) > 6 else ''}: this one does, with β = {strength:g}, so that no parameter is "
            "stepped twice; try remove() of the earlier one before",
            AttachmentWarning,
            stacklevel=2,
        )
    if hard:
        with torch.no_grad():
            restore_targets_(targets, mu)

    @torch.no_grad()
    def after_step(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        found = getattr(stepped, "found_inf", None)  # a gradient scaler told a fused optimiser to skip
        if attachment.paused or (found is not None and bool(found)):
            return
        losses = list(_update(stepped, following.current(stepped), attachment))
        if losses:
            attachment.loss = add_up(losses)
            attachment.steps += 1

    hook: Any = torch.compiler.disable(after_step)  # a compiled step of the optimiser must not look into it
    attachment.handle = stepper.register_step_post_hook(hook)
    return attachment


def _attached_to(optimizer: Optimizer) -> list[Attachment]:
    return [each for each in _live.get(optimizer, ()) if each.handle is not None]


def _taken(optimizer: Optimizer, by: Following) -> set[int]:
    """Give the parameters that others act on."""
    others = [each for each in _attached_to(optimizer) if each.following is not by]
    return {id(target.parameter) for each in others for target in each.targets}


def _take_over(optimizer: Optimizer, attachment: Attachment) -> list[str]:
    """Let no earlier attachment act on the parameters of this one; give the names of those that one did act on."""
    wanted = {id(each.parameter) for each in attachment.targets}
    names: list[str] = []
    for earlier in _attached_to(optimizer):
        if earlier.following is not None:
            names.extend(earlier.following.give_up(wanted, "a later attachment acts on it"))
        if not earlier.targets:
            earlier.remove()
    _live.setdefault(optimizer, weakref.WeakSet()).add(attachment)
    return names


def _update(optimizer: Optimizer, targets: dict[int, Target], attachment: Attachment) -> Iterator[Scalar]:
    # The groups are looked up at every step: a schedule changes their rate, a loaded checkpoint the groups themselves.
    for group in optimizer.param_groups:
        mine = [targets[id(p)] for p in group["params"] if id(p) in targets and p.grad is not None and p.requires_grad]
        if not mine:
            continue
        lr = float(group["lr"])
        yield from step_targets_(mine, lr=lr, beta=attachment.beta, rule=attachment.rule, penalty=attachment.penalty)
