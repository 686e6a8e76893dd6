"""The command `gramian explain`, which prints the derivation in the terminal, in Markdown or in LaTeX."""

__all__ = []
