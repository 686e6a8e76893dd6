"""Select groups by a false discovery rate: those that noise of the measured level does not explain."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["discoveries", "measured_variance", "p_values"]

_ROUNDS = 50

Path = Float[Tensor, "batch k"]


def p_values(gains: Path, dimensions: Float[Tensor, "batch k"], variance: float) -> Path:
    r"""Compute the probability that noise alone lowers ‖x − Φa‖² by as much as a group does, P(σ²χ²_d ≥ gain).

    Args:
        gains: The decrease of ‖x − Φa‖² by each group.
        dimensions: Dimension d of the space that the atoms of the group span.
        variance: Variance σ² of the noise in each entry of x.

    Returns:
        The p-values in float64.
    """
    half = gains.double() / (2 * max(variance, torch.finfo(torch.float64).tiny))
    return torch.special.gammaincc(0.5 * dimensions.double().clamp_min(1), half.clamp(0, 1e30))


def discoveries(p: Path, *, m: int, rate: float) -> Int[Tensor, " batch"]:
    r"""Count how many groups of each path of greedy selection to keep, by the rule of Benjamini and Hochberg.

    The path is kept up to the last step j with p_j ≤ α·j/m. It ends at the first step with p_j > α·(2j + 4)/m: if
    noise explains two groups, it also explains the later ones, which are selected from what those two have left.

    Args:
        p: The p-value of the group selected in each step; 1 after the last step of a path.
        m: Number of groups.
        rate: False discovery rate α.

    Returns:
        The number of steps to keep.

    References:
        Benjamini and Hochberg, "Controlling the false discovery rate", 1995.
    """
    steps = torch.arange(1, p.shape[1] + 1, device=p.device)
    before = (p <= rate * (2 * steps + 4) / m).to(torch.int64).cumprod(dim=1) > 0
    return torch.where(before & (p <= rate * steps / m), steps, 0).amax(dim=1)


def measured_variance(
    power: Float[Tensor, " batch"], gains: Path, dimensions: Path, *, length: int, m: int, rate: float
) -> float:
    """Measure the variance of the noise from what the selected groups leave unexplained, over all samples.

    The variance starts as that of the samples and falls until the groups that it selects no longer change.

    Args:
        power: ‖x‖² of each sample.
        gains: As in `p_values`.
        dimensions: As in `p_values`.
        length: Number of entries of a sample.
        m: Number of groups.
        rate: False discovery rate α.

    Returns:
        σ², for each entry of a sample.
    """
    start = power.double()[:, None]
    unexplained = torch.cat([start, start - gains.double().cumsum(dim=1)], dim=1).clamp_min(0)
    fitted = torch.cat([torch.zeros_like(start), dimensions.double().cumsum(dim=1)], dim=1)
    kept = torch.zeros(len(power), dtype=torch.int64, device=power.device)
    variance = float(power.double().mean()) / length
    for _ in range(_ROUNDS):
        previous = kept
        kept = torch.maximum(kept, discoveries(p_values(gains, dimensions, variance), m=m, rate=rate))
        index = kept[:, None]
        variance = float(unexplained.gather(1, index).sum() / (length - fitted.gather(1, index)).clamp_min(1).sum())
        if bool((kept == previous).all()):
            break
    return variance
