"""Sharded parameters, all-reduced Gram matrices and learning on several processes, by torch.distributed."""

from gramian.distributed.process_grid import ProcessGrid

__all__ = ["ProcessGrid"]
