"""Kernels for a CPU."""

__all__ = []
