"""Measure dictionaries of pictures."""

__all__ = []
