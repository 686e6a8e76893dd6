"""The lanes kernel: code for small groups that is generated for the processor at the first use."""

__all__ = []
