"""Kernels: implementations of the loss and its gradient for tensors of different shapes, dtypes and devices.

They form a ladder, in which the first supported kernel that is faster is used. From the last to the first: `reference`
computes two batched products, of any tensor. `batched` does this in place, for some groups at a time. `block_diagonal`
combines several small groups in one product. `lanes` holds small groups in vector registers, and `outer` sums outer
products of rows there, for groups of middle size, both with code that is generated for the processor. `panel` forms
half of X in panels instead of n × n matrices, for large groups. On a GPU, in Triton, `registers` is for the smallest
groups, `fused` for small ones, `products` for medium and `tiled` for large ones; `tune` times their configurations.
"""

from gramian.kernels.dispatch import Explanation, explain, use, watch
from gramian.kernels.gpu.tuning import Tuning, tune

__all__ = ["Explanation", "Tuning", "explain", "tune", "use", "watch"]
