"""Functions written in the intermediate representation of LLVM, and compiled by llvmlite for this processor."""

__all__ = []
