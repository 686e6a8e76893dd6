"""How the numbers are made: L and Φ·G from Φ and a penalty.

A ladder of kernels; the first that can take a tensor, and pays, makes its numbers.

`dense`: two batched products; takes everything. `whole`: the same in place, a few groups at a time. `folded`: small
groups, several to a product. `lanes`: small groups, 64 at once, in Numba. `panel`: large groups, half of X in panels,
in place of n × n matrices. `fused` and `tiled`: the last two in Triton, on a GPU.
`reduced`: vectors whose coordinates are spread over processes.
"""

from gramian.kernels import chunks, dense, norms, panel
from gramian.kernels.base import Kernel, is_plain
from gramian.kernels.dispatch import Explanation, choose, explain, is_forced, reduce_over, use, watch
from gramian.kernels.panel import Panel
from gramian.kernels.reduced import Reduced

__all__ = [
    "Explanation",
    "Kernel",
    "Panel",
    "Reduced",
    "choose",
    "chunks",
    "dense",
    "explain",
    "is_forced",
    "is_plain",
    "norms",
    "panel",
    "reduce_over",
    "use",
    "watch",
]
