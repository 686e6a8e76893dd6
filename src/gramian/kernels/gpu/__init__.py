"""Kernels for a GPU, in Triton."""

__all__ = []
