"""How the numbers are made: L and Φ·G from Φ and a penalty."""

from gramian.kernels import dense, norms

__all__ = ["dense", "norms"]
