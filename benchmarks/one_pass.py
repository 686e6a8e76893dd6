"""A one-pass block-sparse featurizer, written from its description, as a way to learn a dictionary for comparison."""

import torch
from torch import Tensor

from gramian.typing import Phi

__all__ = ["learn"]


def learn(x: Tensor, m: int, n: int, *, active: int, epochs: int, seed: int, batch: int = 512) -> tuple[Phi, Tensor]:
    """Train codes a = top-k groups of xW + b with a free dictionary of ‖Φ_i‖_F ≤ 1, by Adam on ‖x − Φa‖².

    Args:
        x: Samples [count, l] with E‖x‖² = l.
        m: Number of groups.
        n: Number of atoms in a group.
        active: Number k of active groups of a sample.
        epochs: Passes over the samples.
        seed: Seed.
        batch: Samples in a step.

    Returns:
        The dictionary Φ[l, m, n], and the encoder's weight and bias as one matrix [l + 1, m·n].

    References:
        "Block-Sparse Featurizers", arXiv 2606.25234: the variant named vanilla.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    count, length = x.shape
    atoms = torch.randn(m, n, length, generator=generator, device=x.device)
    atoms /= torch.linalg.vector_norm(atoms, dim=(1, 2), keepdim=True)
    weight = atoms.flatten(0, 1).mT.clone()
    bias = x.new_zeros(m * n)
    # The size of the strongest groups' codes that reconstructs best sets the scale of the encoder.
    weight *= _scale(x[:4096], weight, atoms, active)
    parameters = [atoms.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    steps = epochs * (count // batch)
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % (count // batch) == 0:
            order = torch.randperm(count, generator=generator, device=x.device)
        rows = order[(step % (count // batch)) * batch :][:batch]
        codes = encode(x[rows], weight, bias, m, n, active=active)
        error = x[rows] - codes.flatten(1) @ atoms.flatten(0, 1)
        optimizer.zero_grad()
        error.square().sum(dim=1).mean().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            atoms /= torch.linalg.vector_norm(atoms, dim=(1, 2), keepdim=True).clamp_min(1)
    phi = atoms.detach().permute(2, 0, 1).contiguous()
    return phi, torch.cat([weight.detach(), bias.detach()[None]])


def encode(x: Tensor, weight: Tensor, bias: Tensor, m: int, n: int, *, active: int) -> Tensor:
    """Encode samples in one pass: the k groups of largest norm of xW + b."""
    codes = torch.addmm(bias, x, weight).unflatten(1, (m, n))
    norms = torch.linalg.vector_norm(codes, dim=2)
    threshold = norms.topk(active, dim=1).values[:, -1:]
    return codes * (norms >= threshold).unsqueeze(2)


@torch.no_grad()
def _scale(x: Tensor, weight: Tensor, atoms: Tensor, active: int) -> float:
    m, n, _ = atoms.shape
    reached = encode(x, weight, x.new_zeros(m * n), m, n, active=active).flatten(1) @ atoms.flatten(0, 1)
    return float((reached * x).sum() / reached.square().sum())
