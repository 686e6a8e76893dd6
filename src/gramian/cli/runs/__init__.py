"""The commands for learning runs: `gramian learn`, `gramian features` and `gramian report`."""

__all__ = []
