"""Whether a tensor can be written to: no two of its entries, and no two tensors of one call, in one place of memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gramian import kernels
from gramian.errors import DtypeError, ShapeError

__all__ = ["check_disjoint", "check_writable", "overlaps_itself"]


def check_writable(tensor: Tensor) -> None:
    """Refuse a tensor that cannot be written to entry by entry.

    Raises:
        ShapeError: If two of its entries share a place in memory, as those of an expanded tensor do.
        DtypeError: If it is on the meta device, or was made in inference mode and is used outside of it.
    """
    if torch.compiler.is_compiling():
        return  # a graph has no memory yet; what it is run on, torch checks
    if overlaps_itself(tensor):
        raise ShapeError(
            "a tensor that is written to must hold each entry in a place of its own; got strides "
            f"{list(tensor.stride())} for shape {list(tensor.shape)}, where entries share memory; try phi.clone() or "
            "phi.contiguous()"
        )
    if tensor.is_meta:
        raise DtypeError("a tensor that is written to must have memory; got one on the meta device; try to_empty")
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise DtypeError(
            "a tensor made in inference mode must not be written to outside of it; got one; try phi.clone(), or the "
            "call within torch.inference_mode()"
        )


def check_disjoint(tensors: Sequence[Tensor]) -> None:
    """Refuse tensors that share memory with each other; views of one tensor that interleave are none.

    Raises:
        ShapeError: If two of them do.
    """
    ranges: list[tuple[int, int, int, int]] = []
    for i, tensor in enumerate(tensors):
        start = tensor.data_ptr() if kernels.is_plain(tensor) else 0
        if start:  # an empty tensor has no place
            reach = tensor.numel() - 1 if tensor.is_contiguous() else _reach(tensor)
            ranges.append((tensor.get_device(), start, start + (reach + 1) * tensor.element_size(), i))
    ranges.sort()
    where, last, cluster = None, 0, list[tuple[int, int, int]]()
    for device, start, end, i in ranges:
        if device != where or start >= last:
            where, last = device, end
            cluster = [(start, end, i)]
        else:
            last = max(last, end)
            cluster.append((start, end, i))
            _check_cluster(tensors, cluster)


def overlaps_itself(tensor: Tensor) -> bool:
    """Tell whether two entries of a tensor share a place in memory.

    With the axes in the order of their strides, no step may fall within what the axes before it reach. That is enough;
    where it fails without a stride of 0, the places are counted.
    """
    if tensor.is_contiguous() or tensor.numel() == 0:
        return False
    axes = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    reach, apart = 0, True
    for stride, size in axes:
        apart = apart and stride > reach
        reach += stride * (size - 1)
    if apart or axes[0][0] == 0:
        return not apart
    places = torch.zeros(reach + 1, dtype=torch.bool, device="cpu")
    places.as_strided(tuple(tensor.shape), tensor.stride()).fill_(1)
    return int(places.count_nonzero()) < tensor.numel()


def _reach(tensor: Tensor) -> int:
    """Give by how many entries the last place lies behind the first."""
    return sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _check_cluster(tensors: Sequence[Tensor], cluster: Sequence[tuple[int, int, int]]) -> None:
    """Mark the places of tensors whose ranges meet, and refuse one that is already marked."""
    unit = min(tensors[i].element_size() for _, _, i in cluster)
    first = cluster[0][0]
    places = torch.zeros((max(end for _, end, _ in cluster) - first) // unit, dtype=torch.bool, device="cpu")
    for start, _, i in cluster:
        tensor = tensors[i]
        wide = tensor.element_size() // unit
        strides = (*(stride * wide for stride in tensor.stride()), 1)
        held = places.as_strided((*tensor.shape, wide), strides, (start - first) // unit)
        if bool(held.any()):
            raise ShapeError(
                f"tensors that are written to must not share memory; got tensor {i}, of shape {list(tensor.shape)}, "
                "within memory of another; try each only once, or tensor.clone()"
            )
        held.fill_(1)
