"""The decoupled penalty: an update towards orthonormal groups after every step of an optimiser."""

import math
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gramian.distributed.sharded import is_sharded, plan, whole_tensor
from gramian.errors import AttachmentWarning, OptionError
from gramian.kernels.reference import cross_gram
from gramian.layout import Layout
from gramian.objective import residual
from gramian.options import check_lr, whole_number
from gramian.penalties import Penalty
from gramian.rules import Rule
from gramian.selection import Layouts, Pattern, SelectedParameter, Selector, SkippedParameter, select_parameters
from gramian.selection.patterns import as_selector
from gramian.tables import aligned
from gramian.torch_internals import step_was_skipped
from gramian.training.attaching.against import Frozen, FrozenByPattern
from gramian.training.attaching.following import Following
from gramian.training.attaching.metrics import name_metrics, write_metrics
from gramian.training.attaching.optimizers import unwrap_optimizer
from gramian.training.attaching.settings import Settings
from gramian.training.attaching.steps import restore_targets_, step_targets_, unrestored
from gramian.training.attaching.strength import Beta
from gramian.training.coupled import add_up
from gramian.typing import Scalar

__all__ = ["Attachment", "attach"]

_live: "weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Attachment]]" = weakref.WeakKeyDictionary()
"""The attachments of each optimiser; weak references to both."""

_SHOWN = 6
"""Names that a message lists."""

_ROWS = 20
"""Parameters that a repr lists."""

_NAMED = 3
"""Names that are listed for each reason why parameters are skipped."""


@dataclass(eq=False, repr=False)
class Attachment:
    """The result of `attach`: which parameters it keeps orthogonal and which it skips. It can be paused and removed.

    A copy, or one loaded from a pickle, lists the copied parameters but is attached to nothing: its `handle` is None.

    Attributes:
        targets: The parameters that are updated.
        skipped: The others, each with its reason.
        settings: The strength, the rule and the penalty of each parameter.
        steps: Number of updates so far, on which a strength that varies depends.
        loss: The loss before the last update, summed over the parameters: a tensor, to avoid synchronisation with the
            device. None before the first update.
        paused: Whether updates are paused.
        handle: Handle of the hook; None after `remove`, and in a copy.
        following: Tracks parameters that are replaced in the model; None in a copy.
        frozen: The frozen vectors to which parameters are kept orthogonal.
    """

    targets: list[SelectedParameter]
    skipped: list[SkippedParameter]
    settings: Settings
    steps: int = 0
    loss: Scalar | None = None
    paused: bool = False
    handle: RemovableHandle | None = None
    following: Following | None = None
    frozen: Frozen | None = None
    _copied: bool = False

    @property
    def beta(self) -> Beta | dict[Pattern, Beta]:
        """Strength β, or strengths by pattern; infinite for a hard constraint. A new value acts at the next update."""
        return self.settings.beta

    @beta.setter
    def beta(self, beta: Beta | Mapping[Pattern, Beta]) -> None:
        settings = self.settings.with_beta(beta)
        for target in self.targets:
            self.check(target, settings)
        self.settings = settings

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs if β depends on the step: the number of updates."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            OptionError: If it is not such a state.
        """
        if set(state) != {"steps"}:
            raise OptionError(f"a state must be one that state_dict() returned; got {sorted(map(str, state))}")
        self.steps = whole_number(state["steps"], name="steps", least=0)

    def check(self, target: SelectedParameter, settings: Settings | None = None) -> None:
        """Check that a parameter can be updated, with the settings of the attachment or others.

        Raises:
            OptionError, ShapeError: As for `attach`.
        """
        settings = settings or self.settings
        settings.check([target])
        if self.frozen is not None:
            self.frozen.check(target, settings.of(target).beta, self.steps)

    def pause(self) -> None:
        """Skip updates until `resume` is called."""
        self.paused = True

    def resume(self) -> None:
        """Make updates again."""
        self.paused = False

    def remove(self) -> None:
        """Remove the hook from the optimiser; a second call does nothing."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    @torch.no_grad()
    def residuals(self) -> dict[str, float]:
        """Return the largest |X_jk| of each parameter; this synchronises with the device."""
        return {
            target.name: residual(whole_tensor(target.parameter), layout=target.layout).abs().max().item()
            for target in self.targets
        }

    def metrics(self, *, residuals: bool = True) -> dict[str, float]:
        """Return 'gramian/loss', 'gramian/residual' (the largest) and 'gramian/residual/<parameter>' for a logger.

        This synchronises with the device. If parameters are sharded, all processes must call it.
        """
        return name_metrics(None if self.loss is None else float(self.loss), self.residuals() if residuals else {})

    def log(self, logger: Any, *, step: int | None = None, residuals: bool = True) -> dict[str, float]:
        """Write `metrics()` to an object with `add_scalar`, `log_metrics`, `log_dict` or `log`, and return them.

        In a distributed run, processes that do not write pass None. By default `step` is the number of updates; a
        method `log`, which may count steps itself, gets none.
        """
        metrics = self.metrics(residuals=residuals)
        write_metrics(logger, metrics, step=step, updates=self.steps)
        return metrics

    @torch.no_grad()
    def overlaps(self) -> dict[str, float]:
        """Return the largest |q_jᵀφ_k| of each parameter with frozen vectors; this synchronises with the device."""
        overlaps: dict[str, float] = {}
        for target in self.targets:
            basis = None if self.frozen is None else self.frozen.of(target)
            if basis is not None:
                phi = target.layout.to_phi(whole_tensor(target.parameter)).to(basis.Q.dtype)
                overlaps[target.name] = cross_gram(phi, basis.like(phi)).abs().max().item()
        return overlaps

    def __getstate__(self) -> dict[str, Any]:
        # The hook belongs to the optimiser, whose copies have no hooks either.
        return {**vars(self), "handle": None, "following": None, "_copied": self._copied or self.handle is not None}

    def __str__(self) -> str:
        count, rest = len(self.targets), _by_reason(self.skipped)
        head = f"{self.settings.strength(self.steps)}, {self._state()}: {count} parameter{'' if count == 1 else 's'}"
        return "\n".join([head, *self._table(self.targets), *(["skipped:", *rest] if rest else [])])

    def __repr__(self) -> str:
        settings = self.settings
        head = f"Attachment: {settings.strength(self.steps)}, {settings.rules()}, {self._state()}"
        more = len(self.targets) - _ROWS
        tail = [f"… and {more} more"] if more > 0 else []
        return "\n".join([head, *self._table(self.targets[:_ROWS]), *tail, f"{len(self.skipped)} skipped"])

    def _table(self, targets: list[SelectedParameter]) -> list[str]:
        rows = [("parameter", "shape", "l × m × n", "layout", "why")]
        for target in targets:
            sharded = is_sharded(target.parameter)
            rule = self.settings.of(target).rule
            why = f"{target.reason}; {plan(target.parameter, target.layout, rule)}" if sharded else target.reason
            basis = None if self.frozen is None else self.frozen.of(target)
            why = why if basis is None else f"{why}; orthogonal to {basis.rank} frozen dimensions"
            shape, sizes = str(list(target.parameter.shape)), " × ".join(map(str, target.shape))
            rows.append((target.name, shape, sizes, repr(str(target.layout)), why))
        return aligned(rows)

    def _state(self) -> str:
        if self.handle is None:
            return "a copy that is attached to nothing (attach again)" if self._copied else "removed"
        return "paused" if self.paused else "after every step"


def attach(
    optimizer: Any,
    model: nn.Module,
    *,
    beta: Beta | Mapping[Pattern, Beta],
    select: Selector | None = None,
    exclude: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    rule: str | Rule | Mapping[Pattern, str | Rule] = "proximal",
    penalty: str | Penalty | Mapping[Pattern, str | Penalty] | None = None,
    against: FrozenByPattern | None = None,
    against_beta: Beta | None = None,
) -> Attachment:
    r"""Keep weights orthogonal: one update after every `optimizer.step()`, with the learning rate of their group.

    The update is decoupled, as the weight decay of AdamW is: the penalty passes through no moment estimate and no loss
    scale, and has no state to save. If a gradient scaler skips a step, or the gradient of a parameter is None, there is
    no update.

    By default the weights of linear layers (rows, or columns where they are fewer), convolutions (the filters of each
    group), attention (the rows of each head of q, k and v, the columns of each head of the output) and recurrent layers
    (each gate) are selected; embeddings, norms, biases and depthwise filters are skipped unless you select them.
    `print(attachment)` shows every parameter and why it is selected or skipped.

    A parameter has at most one attachment for each optimiser: a later `attach` takes over the parameters that both
    select, with a warning. If a tensor is replaced in the model and the optimiser has the new one, the attachment
    follows. A parameter that `add_param_group` adds is included if the same selection matches it. A frozen parameter is
    not updated. Copies and pickles of an optimiser have no hooks, and those of an attachment do nothing: attach again.

    Args:
        optimizer: Any torch optimiser, any other with the same step hooks, or a wrapper that holds one as `.optimizer`;
            a hook is added to it.
        model: The model; every selected parameter must be in the optimiser. Names are without the prefixes of wrappers.
        beta: Strength β ≥ 0. With l1, 2β is the largest gradient of a task with respect to one inner product for which
            that inner product stays zero, in every layer. `math.inf` is a hard constraint: Newton–Schulz steps make
            every entry of X on which the penalty depends zero to rounding, at once and after every step. A function of
            the number of updates so far, such as `gramian.training.WarmUp`, or a scheduler, whose last value is used,
            varies β; a mapping gives strengths by pattern, and the first pattern that matches a parameter is used.
        select: Which parameters: a glob or a compiled regular expression that matches whole names, a type of modules
            (`torch.nn.Conv2d`), a module of the model (`model.encoder`), a function of name and parameter, or several
            of these. A module selects what the default selects within it; if that is nothing, its weights.
        exclude: Which parameters are left out: patterns as in `select`; a module excludes all its parameters.
        layouts: Layouts by pattern, or one for all.
        rule: Name or `Rule`, or these by pattern; 'proximal' where no pattern matches.
        penalty: Name or `Penalty`, or these by pattern. By default l1; for the A of LoRA l1 without the diagonal, which
            leaves lengths free.
        against: Frozen vectors by pattern, to which the vectors of a parameter are kept orthogonal too: a tensor in the
            layout of the parameter, a function that returns one for a name, a mapping from names to tensors, or a
            sequence of these, such as one for each earlier task. Their orthonormal bases are computed once, here. See
            `gramian.step_`.
        against_beta: Strength against frozen vectors, in the forms of `beta`, which is its default. It is the largest
            gradient of a task along one direction of the basis for which that inner product stays zero.

    Returns:
        The attachment.

    Raises:
        OptionError: If nothing is selected, a pattern matches nothing, a selected parameter is frozen, lazy,
            re-parametrised, without values or not in the optimiser, or β, rule or penalty is invalid, or they are not
            compatible.
        ShapeError: If a parameter has n > l and β is infinite or the rule is 'polyak'; or if frozen vectors do not fit.
        DataError, DtypeError, OptionError: If frozen vectors are invalid, as for `gramian.frozen.FrozenBasis`, or a
            pattern in `against` matches nothing that is selected.
        LayoutError: If a selected parameter has no layout, or does not fit it.

    Cost:
        4·m·l·n² flops for each parameter and step; small ones of the same shape are batched.

    Examples:
        >>> import torch, gramian
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        >>> attachment = gramian.attach(optimizer, model, beta=10.0)
        >>> print(attachment)
        β = 10, after every step: 2 parameters
        parameter  shape     l × m × n    layout           why
        0.weight   [32, 64]  64 × 1 × 32  'o i -> i () o'  rows of Linear
        2.weight   [10, 32]  32 × 1 × 10  'o i -> i () o'  rows of Linear
        skipped:
        2 × a bias: 0.bias, 2.bias
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
    settings = Settings(model, beta, rule, penalty)
    selecting, excluding = as_selector(select), as_selector(exclude, name="exclude")
    targets, skipped = select_parameters(model, selecting, layouts, exclude=excluding)
    in_optimizer = {id(parameter) for group in stepper.param_groups for parameter in group["params"]}
    missing = [target.name for target in targets if id(target.parameter) not in in_optimizer]
    if missing:
        raise OptionError(
            f"every selected parameter must be in the optimizer; got {', '.join(missing[:_SHOWN])}"
            f"{', …' if len(missing) > _SHOWN else ''}, which it does not have; try select without them"
        )
    settings.check(targets)
    frozen = Frozen(model, against, against_beta, targets)
    attachment = Attachment(targets, skipped, settings, frozen=frozen)
    for target in targets:
        attachment.check(target)
    following = attachment.following = Following(
        model, stepper, targets=targets, skipped=skipped, select=selecting, exclude=excluding, layouts=layouts,
        taken=_parameters_of_others, check=attachment.check,
    )  # fmt: skip
    replaced = _take_over(stepper, attachment)
    if replaced:
        warnings.warn(
            f"an earlier attachment on this optimizer no longer acts on {', '.join(replaced[:_SHOWN])}"
            f"{', …' if len(replaced) > _SHOWN else ''}: this one does, with {settings.strength(0)}, so that no "
            "parameter is stepped twice; try remove() of the earlier one first",
            AttachmentWarning,
            stacklevel=2,
        )
    with torch.no_grad():
        for strength, choice, some in settings.at(targets, 0):
            pull = frozen.strength(strength, 0)
            bases = [frozen.of(target) if pull == math.inf else None for target in some]
            if strength == math.inf:
                restore_targets_(*unrestored(some, choice.penalty, bases))
            elif pull == math.inf:
                list(
                    step_targets_(
                        some, lr=0.0, beta=0.0, rule="proximal", penalty="l1", against=bases, against_beta=pull
                    )
                )

    @torch.no_grad()
    def after_step(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        if attachment.paused or step_was_skipped(stepped):
            return
        losses = list(_update(stepped, following.current(stepped), attachment))
        if losses:
            attachment.loss = add_up(losses)
            attachment.steps += 1

    hook: Any = torch.compiler.disable(after_step)  # a compiled step of the optimiser must not look into it
    attachment.handle = stepper.register_step_post_hook(hook)
    return attachment


def _by_reason(skipped: list[SkippedParameter]) -> list[str]:
    """Return a line for each reason, with the number of parameters and the first names."""
    names: dict[str, list[str]] = {}
    for parameter in skipped:
        names.setdefault(parameter.reason, []).append(parameter.name)
    width = len(str(max(map(len, names.values()), default=0)))
    return [
        f"{len(some):>{width}} × {reason}: {', '.join(some[:_NAMED])}{', …' if len(some) > _NAMED else ''}"
        for reason, some in names.items()
    ]


def _attached_to(optimizer: Optimizer) -> list[Attachment]:
    return [attachment for attachment in _live.get(optimizer, ()) if attachment.handle is not None]


def _parameters_of_others(optimizer: Optimizer, following: Following) -> set[int]:
    """Return the identities of the parameters of other attachments on the same optimiser."""
    others = [other for other in _attached_to(optimizer) if other.following is not following]
    return {id(target.parameter) for other in others for target in other.targets}


def _take_over(optimizer: Optimizer, attachment: Attachment) -> list[str]:
    """Remove the parameters of this attachment from earlier ones; return their names."""
    selected = {id(target.parameter) for target in attachment.targets}
    names: list[str] = []
    for earlier in _attached_to(optimizer):
        if earlier.following is not None:
            names.extend(earlier.following.give_up(selected, "a later attachment acts on it"))
        if not earlier.targets:
            earlier.remove()
    _live.setdefault(optimizer, weakref.WeakSet()).add(attachment)
    return names


def _update(optimizer: Optimizer, targets: dict[int, SelectedParameter], attachment: Attachment) -> Iterator[Scalar]:
    frozen = attachment.frozen
    # Read the groups at every step: a schedule changes the learning rate, and a loaded checkpoint replaces the groups.
    for group in optimizer.param_groups:
        active = [
            targets[id(p)] for p in group["params"] if id(p) in targets and p.grad is not None and p.requires_grad
        ]
        if not active:
            continue
        lr = check_lr(group["lr"])  # on a device it is not read
        for beta, choice, some in attachment.settings.at(active, attachment.steps):
            bases = None if frozen is None else [frozen.of(target) for target in some]
            pull = None if frozen is None else frozen.strength(beta, attachment.steps)
            yield from step_targets_(
                some, lr=lr, beta=beta, rule=choice.rule, penalty=choice.penalty, against=bases, against_beta=pull
            )
