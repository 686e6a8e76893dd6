"""The lanes kernel: code for small groups that is written for the processor at the first use."""

__all__ = []
