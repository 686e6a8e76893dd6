"""The initial frames: those of an autoencoder whose encoder selects a few groups in one pass."""

import math

import torch
from torch import Tensor

from gramian.coding.factors.maximization import polar
from gramian.typing import Phi

__all__ = ["autoencoder_frames", "random_frames"]


def random_frames(length: int, m: int, n: int, generator: torch.Generator) -> Phi:
    """Draw orthonormal frames, uniformly distributed."""
    draws = torch.randn(m, length, n, generator=generator, dtype=torch.float64, device="cpu")
    return polar(draws).transpose(0, 1).contiguous()


def autoencoder_frames(
    x: Tensor, phi: Phi, *, active: int, steps: int, batch_size: int, lr: float, generator: torch.Generator
) -> tuple[Phi, Tensor]:
    r"""Learn frames with a one-pass encoder u = xW + b that keeps the `active` groups of largest ‖u_i‖.

    Adam minimises the mean of ‖x − Σ_i Φ_i u_i‖² over W, b and Φ; every few steps each frame is replaced by its polar
    factor. The encoder cannot tell which of two factors in one group is present, because that needs explaining away;
    this favours groups that hold one factor.

    Returns:
        The frames Φ[l, m, n], and the fraction of samples in which each group is kept, [m].
    """
    _, m, n = phi.shape
    atoms = phi.flatten(1).mT.to(x).clone().requires_grad_()
    weights = atoms.detach().mT.clone().requires_grad_()
    bias = x.new_zeros(m * n).requires_grad_()
    optimizer = torch.optim.Adam([weights, bias, atoms], lr=lr)
    share = x.new_zeros(m)
    for step in range(steps):
        for each in optimizer.param_groups:
            each["lr"] = 0.5 * lr * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(x), (batch_size,), generator=generator, device="cpu").to(x.device)
        batch = x[rows]
        codes = torch.addmm(bias, batch, weights).unflatten(1, (m, n))
        keep = codes.detach().square().sum(dim=2).topk(active, dim=1).indices
        mask = torch.zeros(len(batch), m, device=x.device, dtype=x.dtype).scatter_(1, keep, 1.0)
        loss = (batch - (codes * mask[..., None]).flatten(1) @ atoms).square().sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 20 == 19 or step == steps - 1:
            with torch.no_grad():
                frames = atoms.unflatten(0, (m, n)).mT
                atoms.copy_(polar(frames).mT.flatten(0, 1))
        share = 0.98 * share + 0.02 * mask.mean(dim=0)
    share /= max(1 - 0.98**steps, 1e-12)
    return atoms.detach().mT.unflatten(1, (m, n)).contiguous(), share
