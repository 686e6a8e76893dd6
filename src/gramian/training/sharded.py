r"""Updates of parameters that are spread over processes, as DTensors: each process changes its own part.

Where groups are spread, nothing is sent. Where the coordinates of vectors are, the Gram matrices are added up. Where
the vectors of a group are, an exchange between all processes turns them into coordinates and back, of one part each
time. A whole parameter is gathered only where it is spread in none of these ways.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gramian import kernels
from gramian.errors import OptionError, ShapeError
from gramian.kernels import dense
from gramian.layout import Layout
from gramian.objective import check_beta
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, check_lr, is_coordinatewise, is_groupwise, proximal
from gramian.rules.apply import Operand, admit, apply_, check_hard, check_together, put_
from gramian.rules.restore import MOST_STEPS, Restoration, level, until_restored
from gramian.rules.writable import check_writable
from gramian.typing import Scalar

__all__ = ["Plan", "is_sharded", "plan", "sharded_restore_", "sharded_step_"]


@dataclass(frozen=True)
class Plan:
    """How a parameter that is spread over processes is stepped."""

    way: str
    """'groups', 'coordinates', 'exchange' or 'gather'."""
    axis: int | None
    """The axis of the parameter along which it is spread while it is stepped; None if it is whole."""
    mesh_axis: int | None
    """The axis of the mesh over which it is spread; None if it is not spread, or over several."""
    sent: int
    """Bytes that one process sends, and receives, in a step: about."""

    def __str__(self) -> str:
        words = {
            "groups": "spread by groups, nothing is sent",
            "coordinates": "spread by coordinates, Gram matrices are added up",
            "exchange": "spread by vectors, exchanged for coordinates and back",
            "gather": "spread across groups and vectors, gathered",
        }
        return f"{words[self.way]}: {self.sent / 2**20:.3g} MiB a step"


def is_sharded(parameter: Tensor) -> bool:
    """Tell whether a parameter is a DTensor, without loading torch.distributed for others."""
    return hasattr(parameter, "device_mesh") and hasattr(parameter, "placements")


def plan(parameter: Any, layout: Layout, rule: str | Rule = "proximal") -> Plan:
    """Say how a DTensor is stepped, from its placements and its layout.

    Args:
        parameter: A DTensor.
        layout: Its layout.
        rule: Name or `Rule`: Polyak's needs whole groups, your own the whole parameter, or what it declares.
    """
    update = as_rule(rule)
    mesh, shape = parameter.device_mesh, tuple(parameter.shape)
    spread = [(i, each.dim) for i, each in enumerate(parameter.placements) if each.is_shard()]
    _, m, n = layout.phi_shape(shape)
    size = dense.compute_dtype(parameter.dtype).itemsize
    whole = parameter.numel() * parameter.element_size()
    if not spread:
        return Plan("groups", None, None, 0)
    if len(spread) > 1:
        return Plan("gather", None, None, whole)
    mesh_axis, axis = spread[0]
    processes = mesh.size(mesh_axis)
    gram = 2 * m * n * n * size * (processes - 1) // processes
    roles = _roles(layout, shape)
    role, outermost = roles[axis]
    # Processes hold parts of equal length, but for the last; groups stay whole if such a part is whole factors.
    part = -(-shape[axis] // processes)
    if role == "group" and part % (shape[axis] // max(1, outermost)) == 0 and is_groupwise(update):
        return Plan("groups", axis, mesh_axis, 0)
    coordinates = [i for i, (each, _) in enumerate(roles) if each == "vector"]
    if not is_coordinatewise(update) or not coordinates:
        return Plan("gather", None, mesh_axis, whole * (processes - 1) // processes)
    if role == "vector":
        return Plan("coordinates", axis, mesh_axis, gram)
    best = max(coordinates, key=lambda i: shape[i])
    return Plan("exchange", best, mesh_axis, gram + 2 * (whole * (processes - 1) // processes**2))


def sharded_step_(
    parameter: Any,
    *,
    lr: float,
    beta: float,
    rule: str | Rule,
    penalty: str | Penalty,
    layout: Layout,
) -> Scalar:
    """Make one update of a DTensor, in place; all processes of its mesh must make it.

    Where groups are spread, each process takes the parameters of the penalty that belong to its groups.

    Returns:
        The loss before the step, the same in all processes.

    Raises:
        OptionError, ShapeError: As for `gramian.step_`, in all processes alike and before anything is sent; and
            OptionError if the parameter is a partial sum.
    """
    from torch import distributed
    from torch.distributed.tensor import DTensor, Replicate, Shard

    update, mu = as_rule(rule), as_penalty(penalty)
    lr, beta = check_lr(lr), check_beta(beta)
    mesh, placements, shape = parameter.device_mesh, parameter.placements, tuple(parameter.shape)
    check_together(update, mu, layout.phi_shape(shape), lr=lr)
    if any(each.is_partial() for each in placements):
        raise OptionError(f"a parameter must be whole or sharded; got a partial sum, {placements}; try redistribute")
    how = plan(parameter, layout, update)
    held: Any = parameter.detach()
    if how.way == "gather":
        held = held.redistribute(mesh, [Replicate() if each.is_shard() else each for each in placements])
    elif how.way == "exchange" and how.axis is not None:
        held = held.redistribute(mesh, [Shard(how.axis) if i == how.mesh_axis else p for i, p in enumerate(placements)])
    local = held.to_local()
    local_layout = _local(layout, shape, tuple(local.shape), how.axis)
    group = None if how.mesh_axis is None else mesh.get_group(how.mesh_axis)
    with torch.no_grad():
        if how.way in ("coordinates", "exchange"):
            check_writable(local)
            # Not by `admit`: some coordinates of n vectors may be fewer than n, and all may be enough.
            operand = Operand(local, local_layout, local_layout.to_phi(local))
            with kernels.reduce_over(group):
                (loss,) = apply_([[operand]], lr=lr, beta=beta, rule=update, penalty=mu)
        else:
            if how.way == "groups" and how.axis is not None and mu.groups is not None:
                mu = mu.of_groups(_held_groups(layout, parameter, how, local.shape[how.axis]))
            (loss,) = apply_([[admit(local, local_layout)]], lr=lr, beta=beta, rule=update, penalty=mu)
            if how.way == "groups" and group is not None:
                distributed.all_reduce(loss, group=group)
        if held.placements != placements:
            stepped = DTensor.from_local(local, mesh, held.placements, shape=parameter.shape, stride=parameter.stride())
            put_(parameter.to_local(), stepped.redistribute(mesh, placements).to_local())
    return loss


def sharded_restore_(
    parameter: Any, *, penalty: str | Penalty, layout: Layout, max_steps: int = MOST_STEPS
) -> Restoration:
    """Make the groups of a DTensor orthonormal at once, in place, as `gramian.foreach.restore_` does; in all processes.

    Returns:
        What was done, the same in all processes.

    Raises:
        OptionError, ShapeError: If the penalty has no shrink, or n > l.
    """
    mu = as_penalty(penalty)
    phi_shape = layout.phi_shape(tuple(parameter.shape))
    check_hard(proximal, mu, phi_shape)

    def step(excess: Penalty) -> Scalar:
        return sharded_step_(parameter, lr=math.inf, beta=1.0, rule=proximal, penalty=excess, layout=layout)

    return until_restored(step, mu, rounding=level(parameter.dtype, phi_shape[0]), max_steps=max_steps)


def _held_groups(layout: Layout, parameter: Any, how: Plan, count: int) -> slice | Tensor:
    """Say which groups of the whole this process holds, of a parameter whose groups are spread.

    A part is a part of one factor of the group axis, as 'three' and 'h' are of `(three h)`: of the outermost one it is
    groups that follow each other, of another one it is some in every stretch.
    """
    axis, shape = how.axis, tuple(parameter.shape)
    if axis is None or how.mesh_axis is None:
        return slice(None)
    sizes = layout.axis_sizes(shape)
    left, (_, names, _) = layout.sides()
    spread = next((name for name in left[axis] if sizes[name] > 1), left[axis][0])
    part = -(-shape[axis] // parameter.device_mesh.size(how.mesh_axis))
    first = min(parameter.device_mesh.get_local_rank(how.mesh_axis) * part, shape[axis])
    if count != min(part, shape[axis] - first):
        raise ShapeError(
            f"a part of a sharded parameter must be as long as torch.chunk makes it; got {count} of {shape[axis]}, and "
            f"not {min(part, shape[axis] - first)}; try a penalty that is the same for all groups"
        )
    inner = shape[axis] // max(1, sizes[spread])
    index = torch.arange(math.prod(sizes[name] for name in names), device="cpu").view([sizes[name] for name in names])
    index = index.narrow(names.index(spread), first // inner, count // inner).flatten()
    if len(index) == 0:
        return slice(0, 0)
    begin, end = int(index[0]), int(index[-1]) + 1
    return slice(begin, end) if end - begin == len(index) else index


def _roles(layout: Layout, shape: tuple[int, ...]) -> list[tuple[str | None, int]]:
    """Say of each axis of a parameter what a part of it is a part of, and the size of its outermost factor.

    A part is a part of the outermost factor that is longer than 1; an axis that is 'vector' is so with all its factors.
    """
    sizes = layout.axis_sizes(shape)
    left, right = layout.sides()
    sides = {name: role for role, names in zip(("vector", "group", "member"), right, strict=True) for name in names}
    found: list[tuple[str | None, int]] = []
    for axis in left:
        factors = [(sides[name], sizes[name]) for name in axis if sizes[name] > 1]
        if not factors:
            found.append((None, 1))
        elif all(role == "vector" for role, _ in factors):
            found.append(("vector", factors[0][1]))
        elif factors[0][0] == "vector":
            found.append((None, factors[0][1]))
        else:
            found.append(factors[0])
    return found


def _local(layout: Layout, whole: tuple[int, ...], local: tuple[int, ...], axis: int | None) -> Layout:
    """Give the layout of a part: the outermost factor of the axis that is spread is shorter there."""
    if axis is None:
        return layout
    layout = _merged(layout, whole, axis)
    sizes = layout.axis_sizes(whole)
    left, _ = layout.sides()
    names = [name for name in left[axis] if sizes[name] > 1] or list(left[axis])
    outermost, inner = names[0], names[1:]
    known = {name: sizes[name] for names in left for name in names}
    rest = 1
    for name in inner:
        rest *= sizes[name]
    if len(left[axis]) == 1 or local[axis] == 0:
        known.pop(outermost)
    else:
        known[outermost] = local[axis] // rest
    # Sizes that the shape of the part decides need not be given, and those of length 0 cannot be.
    given = {name: size for name, size in known.items() if any(name in names and len(names) > 1 for names in left)}
    return Layout(layout.pattern, **given)


def _merged(layout: Layout, shape: tuple[int, ...], axis: int) -> Layout:
    """Give an axis all of whose factors are coordinates as one factor: a part of it may cut any of them.

    The coordinates of vectors are in another order then, the same for all vectors, which no Gram matrix sees.
    """
    left, right = layout.sides()
    if len(left[axis]) < 2 or not set(left[axis]) <= set(right[0]):
        return layout
    sizes, rest = layout.axis_sizes(shape), left[axis][1:]
    sides = [
        " ".join(f"({' '.join(name for name in each if name not in rest)})" for each in side) for side in (left, right)
    ]
    shared = {name for each in left if len(each) > 1 for name in each} - set(left[axis])
    return Layout(" -> ".join(sides), **{name: sizes[name] for name in shared})
