"""The loops of coordinate descent, compiled by Numba."""

__all__ = []
