r"""Updates of parameters that are spread over processes, as DTensors: each process changes its own part.

Where groups are spread, nothing is sent. Where the coordinates of vectors are, the Gram matrices are added up. Where
the vectors of a group are, an exchange between all processes turns them into coordinates and back, of one part each
time. A whole parameter is gathered only where it is spread in none of these ways.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gramian import kernels
from gramian.kernels import dense
from gramian.layout import Layout
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, polyak, step_
from gramian.typing import Scalar

__all__ = ["Plan", "is_sharded", "plan", "sharded_step_"]


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
        rule: The update rule: Polyak's, and your own, need whole groups.
    """
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
    if role == "group" and outermost % processes == 0:
        return Plan("groups", axis, mesh_axis, 0)
    linear = as_rule(rule) is not polyak and not callable(rule)
    coordinates = [i for i, (each, _) in enumerate(roles) if each == "vector"]
    if not linear or not coordinates:
        return Plan("gather", None, mesh_axis, whole * (processes - 1) // processes)
    if role == "vector":
        return Plan("coordinates", axis, mesh_axis, gram)
    best = max(coordinates, key=lambda i: shape[i])
    part = whole * (processes - 1) // processes**2
    return Plan("exchange", best, mesh_axis, gram + 2 * part)


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

    Returns:
        The loss before the step, the same in all processes.
    """
    from torch import distributed
    from torch.distributed.tensor import DTensor, Replicate, Shard

    how = plan(parameter, layout, rule)
    mesh, own = parameter.device_mesh, parameter.placements
    held: Any = parameter.detach()
    options: dict[str, Any] = {"lr": lr, "beta": beta, "rule": rule, "penalty": penalty}
    if how.way == "gather":
        held = held.redistribute(mesh, [Replicate() if each.is_shard() else each for each in own])
        local = held.to_local()
        loss = step_(local, **options, layout=layout)
    else:
        if how.way == "exchange" and how.axis is not None:
            placements = [Shard(how.axis) if i == how.mesh_axis else each for i, each in enumerate(own)]
            held = held.redistribute(mesh, placements)
        local = held.to_local()
        own_layout = _local(layout, tuple(parameter.shape), tuple(local.shape), how.axis)
        if how.way == "groups":
            loss = step_(local, **options, layout=own_layout)
            if how.mesh_axis is not None:
                distributed.all_reduce(loss, group=mesh.get_group(how.mesh_axis))
        else:
            with kernels.reduce_over(mesh.get_group(how.mesh_axis)), torch.no_grad():
                phi = own_layout.to_phi(local)
                wide = phi.to(dense.compute_dtype(phi.dtype))
                step = as_rule(rule)(wide, lr=lr, beta=beta, penalty=as_penalty(penalty))
                local.copy_(own_layout.from_phi(wide + step.change, tuple(local.shape)))
                loss = step.loss
    if held.placements != own:
        stepped = DTensor.from_local(local, mesh, held.placements, shape=parameter.shape, stride=parameter.stride())
        with torch.no_grad():
            parameter.to_local().copy_(stepped.redistribute(mesh, own).to_local())
    return loss


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
