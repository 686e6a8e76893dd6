"""Shape aliases: the mathematical notation as types; and the dtypes of parameters.

`l` is the length of a vector, `m` the number of groups, `n` the number of vectors in a group.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "FLOATING_DTYPES",
    "Block",
    "Entries",
    "GroupMatrices",
    "GroupMatrix",
    "GroupScalars",
    "LearningRate",
    "Phi",
    "Scalar",
]

Phi = Float[Tensor, "l m n"]
"""Learnable parameters: m groups, each of n vectors of length l."""

GroupMatrices = Float[Tensor, "m n n"]
"""One symmetric n × n matrix for each group, such as the Gram residual X."""

GroupMatrix = Float[Tensor, "... n n"]
"""Symmetric n × n matrices with any leading axes."""

GroupScalars = Float[Tensor, " m"]
"""One number for each group."""

Block = Float[Tensor, "... rows columns"]
"""A rectangle cut out of residuals, with any leading axes."""

Entries = Float[Tensor, "..."]
"""Entries of residuals in any arrangement: whole matrices, a column, a tile."""

Scalar = Float[Tensor, ""]
"""A 0-dimensional tensor."""

LearningRate = float | Scalar
"""A learning rate η: a number, or a 0-dimensional tensor on a device, which is not read."""

FLOATING_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that a parameter may have."""
