"""Weights that are orthonormal at every forward, as the polar factor of a parameter."""

__all__ = []
