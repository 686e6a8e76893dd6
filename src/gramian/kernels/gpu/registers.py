r"""The registers kernel, for groups of up to eight vectors on a GPU: every thread holds whole groups in its registers.

One launch reads Φ once if the vectors are short, otherwise twice, the second time mostly from the cache of the device.
It forms the Gram matrices as sums of products, without matrix units, and writes the gradient or the proximal step.
"""

from gramian.kernels import reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.gpu import launching
from gramian.kernels.gpu.configurations import Configuration, configuration, shape_class
from gramian.kernels.gpu.fused import Fused, Update
from gramian.typing import GroupScalars, Phi, Scalar

__all__ = ["Registers"]

_MOST = 8
_LONGEST = 256
"""Vectors up to this length are kept in registers between the two products."""

_TILE = 8192
"""Entries of Φ that a program holds at a time: 32 in each of 256 threads."""

_MOST_ENTRIES = 1024
"""Entries that a warp may hold in another tile than the default one."""

_FEWEST_PROGRAMS = 64
_LONG = 2048


class Registers(Fused):
    """Gram matrices, factors and products of whole groups in the registers of a thread."""

    name = "registers"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if problem.shape[2] > _MOST:
            return f"it is for n from 1 to {_MOST}; n is {problem.shape[2]}"
        return super().unsupported_reason(problem)

    def _update(self, phi: Phi, out: Phi, update: Update) -> tuple[GroupScalars, Scalar | None]:
        length, m, n = phi.shape
        tiles = _tiles(phi)
        if -(-m // tiles[0]["GROUPS"]) < _FEWEST_PROGRAMS and length >= _LONG:
            return super()._update(phi, out, update)  # which shares the rows of a group among programs
        values = phi.new_empty(m, dtype=reference.compute_dtype(phi.dtype))
        if m == 0:
            return values, None
        step, kind = update.step, update.epilogue.kind
        apart = "" if phi.stride(1) == n else ", apart"
        key = f"whole_groups {shape_class(phi)}{apart} {kind}, {'step' if step else 'gradient'}"
        tile = configuration(key, phi.device, lambda: tiles)
        p_adjacent, p_dense = _order(phi)
        d_adjacent, d_dense = _order(out)
        launching.launch(
            "whole_groups", (-(-m // tile["GROUPS"]),), phi, out, values,
            values if update.rate is None else update.rate, length, m, *phi.stride(), *out.stride(),
            *update.numbers, N=n, MEMBERS=_members(n), ONE_TILE=length <= tile["ROWS"], **tile,
            P_ADJACENT=p_adjacent, P_DENSE=p_dense, D_ADJACENT=d_adjacent, D_DENSE=d_dense,
            PENALTY=kind, STEP=step, ADD=update.add, RATE=update.rate is not None,
            **launching.sums(phi.dtype),
        )  # fmt: skip
        return values, None


def _tiles(phi: Phi) -> list[Configuration]:
    """Return the parts of Φ that a program may process at a time, and its warps; the default first."""
    length, _, n = phi.shape
    entries = _TILE if phi.element_size() <= 4 else _TILE // 2
    rows = 1 << max(0, length - 1).bit_length()
    if rows > _LONGEST:
        rows = 64 if phi.stride(2) == 1 else 256
    columns = max(32, min(128, entries // rows)) if phi.stride(2) == 1 else max(8, min(64, entries // rows))
    groups = max(1, columns // _members(n))
    warps = max(1, min(8, rows * groups * _members(n) // 1024))
    most = _MOST_ENTRIES
    if _members(n) == _MOST and phi.stride(2) == 1:
        # Compilers spill two of 32 entries for each thread, and of 16 where groups are not side by side.
        shrink = 2 if phi.stride(1) == n else 4
        groups, most = max(1, groups // shrink), most // shrink
    choices = [
        *((rows, groups, warps), (rows, groups, min(8, 2 * warps)), (rows, max(1, groups // 2), warps)),
        *((rows, 2 * groups, min(8, 2 * warps)), (max(1, rows // 2), 2 * groups, warps)),
    ]
    if length <= _LONGEST:  # longer vectors spill registers in fewer warps
        choices.append((rows, max(1, groups // 2), max(1, warps // 2)))
    default, *others = dict.fromkeys(choices)
    fitting = [tile for tile in others if tile[0] * tile[1] * _members(n) <= most * tile[2]]
    return [dict(zip(("ROWS", "GROUPS", "num_warps"), tile, strict=True)) for tile in (default, *fitting)]


def _members(n: int) -> int:
    """Return the columns of a group in a tile, a power of two."""
    return 1 << (n - 1).bit_length()


def _order(phi: Phi) -> tuple[bool, bool]:
    """Tell whether the members of a row of a group are adjacent in memory, and whether the groups are too."""
    n = phi.shape[2]
    adjacent = phi.stride(2) == 1 or n == 1
    return adjacent, adjacent and phi.stride(1) == n == _members(n)
