"""Updates of sharded parameters, and learning on several processes, with torch.distributed."""

from gramian.distributed.process_grid import ProcessGrid

__all__ = ["ProcessGrid"]
