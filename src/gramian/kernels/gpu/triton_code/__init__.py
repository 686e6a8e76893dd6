"""Device code in Triton, which is optional: each module is imported at its first launch.

WIDE is the dtype of sums and NARROW that of factors. A type checker and a shape check cannot follow these functions.
"""

__all__ = []
