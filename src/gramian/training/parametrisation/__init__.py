"""Weights that are orthonormal at every forward pass, as the polar factor of a parameter."""

__all__ = []
