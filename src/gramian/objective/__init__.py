"""The loss L = β Σ_i μ(Φ_iᵀΦ_i − I), its gradient, and its derivatives with respect to parts of Φ."""

from gramian.objective.derivatives import grad_group, grad_slice, grad_vector, residual
from gramian.objective.losses import loss, value_and_grad

__all__ = ["grad_group", "grad_slice", "grad_vector", "loss", "residual", "value_and_grad"]
