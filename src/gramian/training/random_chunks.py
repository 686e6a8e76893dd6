"""Random groups at every step, for sets of vectors that are too large to be orthogonal at once."""

import torch
from torch import Tensor

from gramian.errors import OptionError
from gramian.layout import Layout, as_layout
from gramian.penalties import Penalty
from gramian.rules import Rule, step_
from gramian.rules.apply import put_
from gramian.rules.writable import check_writable
from gramian.typing import Scalar

__all__ = ["step_chunks_"]

_COLUMNS = Layout("l n -> l n ()")


def step_chunks_(
    parameter: Tensor,
    size: int,
    *,
    lr: float,
    beta: float = 1.0,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
    generator: torch.Generator | None = None,
) -> Scalar:
    r"""Divide vectors into random groups and make one update of each, in place.

    16,384 vectors of length 512 cannot all be orthogonal, but any 64 of them can nearly be. A step costs
    (number of vectors)·`size` inner products instead of the square of their number. Each pair is in the same group once
    in about (number of vectors)/`size` calls.

    Args:
        parameter: [l, n], whose columns are the vectors; or any tensor with a layout, whose groups and members together
            are the vectors. Written to.
        size: Number of vectors in a group; a remainder is not updated in this call.
        lr: Learning rate η ≥ 0.
        beta: Strength β ≥ 0, for the pairs that are in the same group in this call.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.
        generator: Random generator on the CPU; by default that of torch.

    Returns:
        The loss of the groups before the step, a 0-dimensional tensor.

    Raises:
        OptionError: If `size` is not from 1 to the number of vectors; and as for `gramian.step_`.
        LayoutError: If the tensor has no layout, or does not fit it.

    Cost:
        4·l·v·size flops for v vectors, and two copies of the tensor.

    References:
        Korznikov et al., "OrtSAE: orthogonal sparse autoencoders uncover atomic features", 2025.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> decoder = torch.nn.Linear(4096, 64)  # 4096 vectors of length 64
        >>> for _ in range(3):
        ...     before = step_chunks_(decoder.weight, 16, lr=1e-3, beta=25.0)
    """
    resolved = _COLUMNS if layout is None and parameter.ndim == 2 else as_layout(layout, parameter.ndim)
    check_writable(parameter)
    with torch.no_grad():
        phi = parameter if resolved is None else resolved.to_phi(parameter)
        vectors = phi.flatten(1)
        count = vectors.shape[1]
        if not 1 <= size <= count:
            raise OptionError(f"size must be from 1 to the {count} vectors of the parameter; got {size}")
        order = torch.randperm(count, generator=generator)[: count - count % size].to(parameter.device)
        chunks = vectors[:, order].unflatten(1, (-1, size))
        before = step_(chunks, lr=lr, beta=beta, rule=rule, penalty=penalty)
        changed = vectors.index_copy(1, order, chunks.flatten(1)).view(phi.shape)
        put_(parameter, changed if resolved is None else resolved.from_phi(changed, tuple(parameter.shape)))
        return before
