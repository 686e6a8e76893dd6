"""Whether tensors can be written to: neither two entries of a tensor nor two tensors of a call may share memory."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gramian.errors import DtypeError, ShapeError

__all__ = ["check_disjoint", "check_writable", "overlaps_itself"]


def check_writable(tensor: Tensor) -> None:
    """Check that a tensor can be written to entry by entry.

    Raises:
        ShapeError: If two of its entries share memory, as those of an expanded tensor do.
        DtypeError: If it is on the meta device, or was created in inference mode and is used outside of it.
    """
    if torch.compiler.is_compiling():
        return  # a traced tensor has no memory; torch checks the tensors that the graph runs on
    if overlaps_itself(tensor):
        raise ShapeError(
            "a tensor that is written to must not have entries that share memory; got strides "
            f"{list(tensor.stride())} for shape {list(tensor.shape)}; try phi.clone() or "
            "phi.contiguous()"
        )
    if tensor.is_meta:
        raise DtypeError("a tensor that is written to must have memory; got one on the meta device; try to_empty")
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise DtypeError(
            "a tensor created in inference mode must not be written to outside of it; got one; try phi.clone(), or the "
            "call within torch.inference_mode()"
        )


def check_disjoint(tensors: Mapping[int, Tensor]) -> None:
    """Check that no two tensors share memory. Views of one tensor that interleave do not.

    Args:
        tensors: Plain tensors by their index in the call.

    Raises:
        ShapeError: If two of them share memory.
    """
    ranges: list[tuple[int, int, int, int]] = []
    for i, tensor in tensors.items():
        start = tensor.data_ptr()
        if start:  # an empty tensor has no memory
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
    """Tell whether two entries of a tensor share memory.

    It is sufficient that, with the axes sorted by stride, each stride exceeds the reach of the axes before it. If this
    condition fails without a stride of 0, the addresses are counted.
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
    addresses = torch.zeros(reach + 1, dtype=torch.bool, device="cpu")
    addresses.as_strided(tuple(tensor.shape), tensor.stride()).fill_(1)
    return int(addresses.count_nonzero()) < tensor.numel()


def _reach(tensor: Tensor) -> int:
    """Compute the distance from the first to the last entry in memory, in entries."""
    return sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _check_cluster(tensors: Mapping[int, Tensor], cluster: Sequence[tuple[int, int, int]]) -> None:
    """Mark the addresses of tensors whose ranges meet; an address that is already marked is an error."""
    unit = min(tensors[i].element_size() for _, _, i in cluster)
    first = cluster[0][0]
    addresses = torch.zeros((max(end for _, end, _ in cluster) - first) // unit, dtype=torch.bool, device="cpu")
    for start, _, i in cluster:
        tensor = tensors[i]
        units = tensor.element_size() // unit
        strides = (*(stride * units for stride in tensor.stride()), 1)
        entries = addresses.as_strided((*tensor.shape, units), strides, (start - first) // unit)
        if bool(entries.any()):
            raise ShapeError(
                f"tensors that are written to must not share memory; got tensor {i}, of shape {list(tensor.shape)}, "
                "which shares memory with another; try each tensor only once, or tensor.clone()"
            )
        entries.fill_(1)
