"""The outer kernel: code for groups of middle size that is generated for the processor at the first use."""

__all__ = []
