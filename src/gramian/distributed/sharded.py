r"""Updates of sharded parameters (DTensors): each process updates its local part.

A parameter that is sharded along groups needs no communication. One that is sharded along the coordinates of its
vectors needs an all-reduce of its Gram matrices. One that is sharded along the vectors of a group is redistributed
along coordinates and back (two all-to-all exchanges). Any other sharding gathers the whole parameter.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gramian.distributed.all_reduce_kernel import all_reduce_over
from gramian.errors import OptionError, ShapeError
from gramian.frozen import FrozenBasis
from gramian.kernels import reference
from gramian.kernels.base import is_plain
from gramian.layout import Layout
from gramian.options import check_against_beta, check_beta, check_lr
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, proximal
from gramian.rules.apply import Operand, admit, apply_, put_
from gramian.rules.base import is_coordinatewise, is_groupwise
from gramian.rules.registry import check_compatible, check_hard
from gramian.rules.restore import MOST_STEPS, Restoration, until_restored
from gramian.rules.writable import check_writable
from gramian.typing import LearningRate, Scalar

__all__ = ["Plan", "is_sharded", "plan", "sharded_restore_", "sharded_step_", "whole_tensor"]


@dataclass(frozen=True)
class Plan:
    """How a sharded parameter is stepped."""

    way: str
    """'groups', 'coordinates', 'exchange' or 'gather'."""
    axis: int | None
    """The axis of the parameter along which it is sharded during the step; None if it is whole."""
    mesh_axis: int | None
    """The axis of the mesh over which it is sharded; None if it is not sharded, or over several axes."""
    sent: int
    """Approximate number of bytes that one process sends, and receives, in a step."""

    def __str__(self) -> str:
        words = {
            "groups": "sharded by groups, nothing is sent",
            "coordinates": "sharded by coordinates, Gram matrices are all-reduced",
            "exchange": "sharded by vectors, exchanged for coordinates and back",
            "gather": "sharded across groups and vectors, gathered",
        }
        return f"{words[self.way]}: {self.sent / 2**20:.3g} MiB a step"


def is_sharded(parameter: Tensor) -> bool:
    """Tell whether a parameter is a DTensor, without importing torch.distributed for other tensors."""
    return hasattr(parameter, "device_mesh") and hasattr(parameter, "placements")


def whole_tensor(tensor: Any) -> Tensor:
    """Return a tensor, or a gathered copy of a DTensor; all processes of its mesh must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def plan(parameter: Any, layout: Layout, rule: str | Rule = "proximal") -> Plan:
    """Plan the step of a DTensor from its placements and its layout.

    Args:
        parameter: A DTensor.
        layout: Its layout.
        rule: Name or `Rule`. Polyak's rule needs whole groups; any other rule gets the whole parameter, unless it
            declares that it needs less.
    """
    update = as_rule(rule)
    mesh, shape = parameter.device_mesh, tuple(parameter.shape)
    sharded = [(i, placement.dim) for i, placement in enumerate(parameter.placements) if placement.is_shard()]
    _, m, n = layout.phi_shape(shape)
    size = reference.compute_dtype(parameter.dtype).itemsize
    whole = parameter.numel() * parameter.element_size()
    if not sharded:
        return Plan("groups", None, None, 0)
    if len(sharded) > 1:
        return Plan("gather", None, None, whole)
    mesh_axis, axis = sharded[0]
    processes = mesh.size(mesh_axis)
    gram = 2 * m * n * n * size * (processes - 1) // processes
    roles = _roles(layout, shape)
    role, outermost = roles[axis]
    # All parts but the last have the same length; groups stay whole if it is a multiple of the inner factors.
    part = -(-shape[axis] // processes)
    if role == "group" and part % (shape[axis] // max(1, outermost)) == 0 and is_groupwise(update):
        return Plan("groups", axis, mesh_axis, 0)
    coordinates = [i for i, (kind, _) in enumerate(roles) if kind == "vector"]
    if not is_coordinatewise(update) or not coordinates:
        return Plan("gather", None, mesh_axis, whole * (processes - 1) // processes)
    if role == "vector":
        return Plan("coordinates", axis, mesh_axis, gram)
    best = max(coordinates, key=lambda i: shape[i])
    return Plan("exchange", best, mesh_axis, gram + 2 * (whole * (processes - 1) // processes**2))


def sharded_step_(
    parameter: Any,
    *,
    lr: LearningRate,
    beta: float,
    rule: str | Rule,
    penalty: str | Penalty,
    layout: Layout,
    against: FrozenBasis | None = None,
    against_beta: float | None = None,
) -> Scalar:
    """Make one update of a DTensor, in place. All processes of its mesh must call this.

    If groups are sharded, each process uses the parameters of the penalty and the frozen vectors that belong to its
    groups. If coordinates are sharded, it uses its coordinates of the frozen vectors, and a second all-reduce, of m·k·n
    numbers, sums the inner products with them over processes. Each process must have the whole basis.

    Returns:
        The loss before the step, as from `gramian.step_`; the same in all processes.

    Raises:
        OptionError, ShapeError: As for `gramian.step_`, in all processes and before any communication; and
            OptionError if the parameter is a partial sum.
    """
    from torch import distributed
    from torch.distributed.tensor import DTensor, Replicate, Shard

    update, mu = as_rule(rule), as_penalty(penalty)
    lr, beta, strength = check_lr(lr), check_beta(beta), check_against_beta(against_beta)
    mesh, placements, shape = parameter.device_mesh, parameter.placements, tuple(parameter.shape)
    check_compatible(update, mu, layout.phi_shape(shape), lr=lr)
    if against is not None:
        against.check(layout.phi_shape(shape))
    if any(placement.is_partial() for placement in placements):
        raise OptionError(f"a parameter must be whole or sharded; got a partial sum, {placements}; try redistribute")
    how = plan(parameter, layout, update)
    redistributed: Any = parameter.detach()
    if how.way == "gather":
        redistributed = redistributed.redistribute(
            mesh, [Replicate() if placement.is_shard() else placement for placement in placements]
        )
    elif how.way == "exchange" and how.axis is not None:
        redistributed = redistributed.redistribute(
            mesh, [Shard(how.axis) if i == how.mesh_axis else p for i, p in enumerate(placements)]
        )
    local = redistributed.to_local()
    local_layout = _local(layout, shape, tuple(local.shape), how.axis)
    group = None if how.mesh_axis is None else mesh.get_group(how.mesh_axis)
    options: dict[str, Any] = {"lr": lr, "beta": beta, "rule": update, "penalty": mu, "against_beta": strength}
    with torch.no_grad():
        if how.way in ("coordinates", "exchange"):
            check_writable(local)
            # Not by `admit`: n vectors may have fewer than n local coordinates, but enough in all processes.
            if against is not None:
                held = _held_coordinates(layout, shape, local_layout, how.axis, _extent(parameter, how, local))
                against = against.part(coordinates=held)
            operand = Operand(local, local_layout, local_layout.to_phi(local), is_plain(local), against)
            with all_reduce_over(group):
                (loss,) = apply_([operand], **options)
        else:
            by_group = mu.n_groups is not None or (against is not None and against.Q.shape[1] > 1)
            if how.way == "groups" and how.axis is not None and by_group:
                held = _held_groups(layout, parameter, how, local.shape[how.axis])
                options["penalty"] = mu.select_groups(held) if mu.n_groups is not None else mu
                against = None if against is None else against.part(groups=held)
            operands = admit([local], [local_layout], lambda _: None, numbered=False, against=[against])
            (loss,) = apply_(operands, **options)
            if how.way == "groups" and group is not None:
                distributed.all_reduce(loss, group=group)
        if redistributed.placements != placements:
            stepped = DTensor.from_local(
                local, mesh, redistributed.placements, shape=parameter.shape, stride=parameter.stride()
            )
            put_(parameter.to_local(), stepped.redistribute(mesh, placements).to_local())
    return loss


def sharded_restore_(
    parameter: Any,
    *,
    penalty: str | Penalty,
    layout: Layout,
    max_steps: int = MOST_STEPS,
    against: FrozenBasis | None = None,
) -> Restoration:
    """Make the groups of a DTensor orthonormal, in place, as `gramian.foreach.restore_` does.

    All processes of its mesh must call this.

    Returns:
        The loss before, the number of steps and why they ended; the same in all processes.

    Raises:
        OptionError, ShapeError: If the penalty has no closed-form prox, n > l, or the frozen vectors leave fewer than n
            dimensions.
    """
    mu = as_penalty(penalty)
    phi_shape = layout.phi_shape(tuple(parameter.shape))
    check_hard(proximal, mu, phi_shape)

    if against is not None:
        against.check(phi_shape, hard=True)
    options: dict[str, Any] = {"lr": math.inf, "rule": proximal, "layout": layout}

    def project() -> list[Scalar]:
        if against is None:
            return []
        return [sharded_step_(parameter, beta=0.0, penalty=mu, against=against, against_beta=math.inf, **options)]

    before = project()

    def step(excess: Penalty) -> Scalar:
        project()
        return sharded_step_(parameter, beta=1.0, penalty=excess, **options)

    done = until_restored(step, mu, dtype=parameter.dtype, length=phi_shape[0], max_steps=max_steps)
    return replace(done, loss=sum(before, done.loss))


def _extent(parameter: Any, how: Plan, local: Tensor) -> tuple[int, int]:
    """Return where the local part begins on the sharded axis, and how long it is, as for torch.chunk."""
    if how.axis is None or how.mesh_axis is None:
        return 0, 0
    part = -(-parameter.shape[how.axis] // parameter.device_mesh.size(how.mesh_axis))
    first = parameter.device_mesh.get_local_rank(how.mesh_axis) * part
    return min(first, parameter.shape[how.axis]), local.shape[how.axis]


@lru_cache(maxsize=256)
def _held_coordinates(
    layout: Layout, shape: tuple[int, ...], local_layout: Layout, axis: int | None, extent: tuple[int, int]
) -> Tensor:
    """Return which of the l coordinates a process holds, in the order of its local Φ, by sharding their indices."""
    length, m, n = layout.phi_shape(shape)
    numbers = torch.arange(length, dtype=torch.float64, device="cpu")[:, None, None].expand(length, m, n)
    part = layout.from_phi(numbers, shape)
    if axis is not None:
        part = part.narrow(axis, *extent)
    return local_layout.to_phi(part)[:, 0, 0].long()


def _held_groups(layout: Layout, parameter: Any, how: Plan, count: int) -> slice | Tensor:
    """Return the indices of the groups that this process holds, for a parameter that is sharded along groups.

    The sharded axis is one factor of the group axis, as 'three' and 'h' are of `(three h)`. For the outermost factor
    the local groups are consecutive; for another one they are spaced regularly.
    """
    axis, shape = how.axis, tuple(parameter.shape)
    if axis is None or how.mesh_axis is None:
        return slice(None)
    sizes = layout.axis_sizes(shape)
    left, (_, names, _) = layout.sides()
    sharded = next((name for name in left[axis] if sizes[name] > 1), left[axis][0])
    part = -(-shape[axis] // parameter.device_mesh.size(how.mesh_axis))
    first = min(parameter.device_mesh.get_local_rank(how.mesh_axis) * part, shape[axis])
    if count != min(part, shape[axis] - first):
        raise ShapeError(
            f"the local part of a sharded parameter must be as long as torch.chunk makes it, "
            f"{min(part, shape[axis] - first)} of {shape[axis]}; got {count}; try a penalty without "
            "parameters for each group"
        )
    inner = shape[axis] // max(1, sizes[sharded])
    index = torch.arange(math.prod(sizes[name] for name in names), device="cpu").view([sizes[name] for name in names])
    index = index.narrow(names.index(sharded), first // inner, count // inner).flatten()
    if len(index) == 0:
        return slice(0, 0)
    begin, end = int(index[0]), int(index[-1]) + 1
    return slice(begin, end) if end - begin == len(index) else index


def _roles(layout: Layout, shape: tuple[int, ...]) -> list[tuple[str | None, int]]:
    """Return for each axis of a parameter which axis of Φ a shard of it divides, and the size of its outermost factor.

    A shard divides the outermost factor that is longer than 1. An axis counts as 'vector' only if all factors do.
    """
    sizes = layout.axis_sizes(shape)
    left, right = layout.sides()
    sides = {name: role for role, names in zip(("vector", "group", "member"), right, strict=True) for name in names}
    roles: list[tuple[str | None, int]] = []
    for axis in left:
        factors = [(sides[name], sizes[name]) for name in axis if sizes[name] > 1]
        if not factors:
            roles.append((None, 1))
        elif all(role == "vector" for role, _ in factors):
            roles.append(("vector", factors[0][1]))
        elif factors[0][0] == "vector":
            roles.append((None, factors[0][1]))
        else:
            roles.append(factors[0])
    return roles


def _local(layout: Layout, whole: tuple[int, ...], local: tuple[int, ...], axis: int | None) -> Layout:
    """Return the layout of the local part, where the outermost factor of the sharded axis is shorter."""
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
    # The shape of the part determines the other sizes; a size of 0 could not be given.
    given = {name: size for name, size in known.items() if any(name in names and len(names) > 1 for names in left)}
    return Layout(layout.pattern, **given)


def _merged(layout: Layout, shape: tuple[int, ...], axis: int) -> Layout:
    """Merge the factors of an axis that holds only coordinates, because a shard may cut any of them.

    This permutes the coordinates of all vectors alike, which does not change Gram matrices.
    """
    left, right = layout.sides()
    if len(left[axis]) < 2 or not set(left[axis]) <= set(right[0]):
        return layout
    sizes, rest = layout.axis_sizes(shape), left[axis][1:]
    sides = [
        " ".join(f"({' '.join(name for name in factors if name not in rest)})" for factors in side)
        for side in (left, right)
    ]
    shared = {name for factors in left if len(factors) > 1 for name in factors} - set(left[axis])
    return Layout(" -> ".join(sides), **{name: sizes[name] for name in shared})
