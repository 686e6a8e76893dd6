"""Initialise weights with orthonormal groups, in place: a tensor by its layout, or the weights of a module."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from gramian import foreach
from gramian.distributed.sharded import is_sharded
from gramian.errors import DataError, DtypeError, OptionError
from gramian.layout import Layout, as_layout
from gramian.options import real_number
from gramian.rules.writable import check_writable
from gramian.selection import Layouts, Selector, propose_by_shape, select_parameters

__all__ = ["orthogonalize_"]

Weights = TypeVar("Weights", Tensor, nn.Module)

_SHOWN = 6
"""Names that a message lists."""


def orthogonalize_(
    weights: Weights,
    *,
    layout: Layout | str | None = None,
    gain: float = 1.0,
    select: Selector | None = None,
    exclude: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
) -> Weights:
    r"""Make groups of weights orthonormal in place, as an initialisation.

    This does what `torch.nn.init.orthogonal_` does for a matrix, for the groups of any layout: filters of convolutions,
    the heads of attention, gates. Each group becomes the nearest orthonormal one: independent normal weights become
    uniformly distributed groups, and no other random numbers are drawn.

    Args:
        weights: A tensor, or a module, whose weights are selected as by `gramian.attach`. Written to.
        layout: Layout of a tensor. By default the rows of a matrix, or its columns where they are fewer; the filters of
            a convolution of two or three dimensions; a tensor of three axes is Φ[l, m, n].
        gain: Factor by which all vectors are scaled afterwards.
        select: Which parameters of a module; see `gramian.attach`.
        exclude: Which parameters of a module are left out.
        layouts: Layouts of the parameters of a module by pattern, or one for all.

    Returns:
        The tensor or the module.

    Raises:
        OptionError: If options of a module are given for a tensor or the reverse, `gain` is not positive, or a
            parameter is sharded; and as for `gramian.attach`.
        LayoutError: If the tensor has no layout, or does not fit it.
        ShapeError: If groups have more vectors than dimensions.
        DataError: If vectors are linearly dependent, as zeros are. Nothing is written then.

    Cost:
        About 20 steps of 4·m·l·n² flops, and a copy of the weights.

    Examples:
        >>> import torch, gramian
        >>> layer = torch.nn.Conv2d(16, 32, 3)
        >>> _ = gramian.orthogonalize_(layer)
        >>> filters = layer.weight.detach().flatten(1)
        >>> bool(torch.allclose(filters @ filters.mT, torch.eye(32), atol=1e-5))
        True
        >>> heads = gramian.orthogonalize_(torch.randn(64, 64), layout=gramian.Layout("(h d) i -> i h d", h=4))

    References:
        Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
        networks", 2014.
    """
    scale = real_number(gain, name="gain")
    if isinstance(weights, nn.Module):
        if layout is not None:
            raise OptionError("a module must have layouts by pattern, or one for all; got layout=…; try layouts=…")
        targets, _ = select_parameters(weights, select, layouts, exclude=exclude)
        sharded = [target.name for target in targets if is_sharded(target.parameter)]
        if sharded:
            raise OptionError(
                f"weights must be whole to be initialised; got sharded ones, {', '.join(sharded[:_SHOWN])}; try this "
                "before fully_shard or parallelize_module"
            )
        tensors, known = [target.parameter for target in targets], [target.layout for target in targets]
    elif isinstance(weights, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        if select is not None or exclude is not None or layouts is not None:
            raise OptionError("select, exclude and layouts must come with a module; got a tensor; try layout=…")
        tensors, known = [weights], [_layout(weights, layout)]
    else:
        raise DtypeError(f"weights must be a tensor or a module; got {type(weights).__name__}")
    for tensor in tensors:
        check_writable(tensor)
    with torch.no_grad():
        copies = [tensor.detach().clone() for tensor in tensors]
        result = foreach.restore_(copies, layouts=known)
        if not result.converged:
            raise DataError(
                f"the vectors of each group must be linearly independent and finite; got others ({result.stopped} after"
                f" {result.steps} steps); try torch.nn.init.normal_ first, or select without weights that start at 0"
            )
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy if scale == 1.0 else scale * copy)
    return weights


def _layout(tensor: Tensor, layout: Layout | str | None) -> Layout | None:
    """Return the layout that was given, or for a matrix or a convolution the one of its shape."""
    if layout is None and tensor.ndim in (2, 4, 5):
        return propose_by_shape("", tuple(tensor.shape)).layout or as_layout(None, tensor.ndim)
    return as_layout(layout, tensor.ndim)
