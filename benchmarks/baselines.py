"""Baselines of block-sparse features, written from their papers in plain PyTorch.

* `TopKAutoencoder`: Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093: non-negative codes of
  single directions, of which the k largest are kept; columns of the decoder of unit length.
* `Vanilla`, `Grassmannian`, `GroupLasso`: "Block-Sparse Featurizers", arXiv 2606.25234: signed linear codes in groups.
  Vanilla has a free encoder and keeps the k groups of largest norm; Grassmannian has a tied encoder with one gain, and
  its frames become orthonormal by a QR factorisation every 20 steps; Group Lasso has a free encoder and a block soft
  threshold with one θ for each group, and λ Σ‖a_i‖ in the loss while too many groups are active.
* `WithAuxiliaryLoss`: the auxiliary loss of Gao et al., for groups, in the module of `gramian.coding.BlockFeatures`.
* `MixtureOfFactorAnalyzers`: Ghahramani and Hinton, "The EM algorithm for mixtures of factor analyzers", 1996.

Samples are scaled so that E‖x‖ = √l.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import mean

import torch
from torch import Tensor, nn

from gramian.coding import BlockSparseAutoencoder, ManifoldSamples, ManifoldSum
from gramian.coding.features import FeatureOutput

__all__ = [
    "Autoencoder",
    "Grassmannian",
    "GroupLasso",
    "MixtureOfFactorAnalyzers",
    "TopKAutoencoder",
    "Vanilla",
    "WithAuxiliaryLoss",
    "directional_recovery",
    "train",
    "utilisation",
]


class Autoencoder(nn.Module, ABC):
    """Codes [batch, m, n] by an encoder, samples by a decoder of rows [m·n, l]."""

    def __init__(self, length: int, m: int, n: int, k: int, generator: torch.Generator) -> None:
        super().__init__()
        self.m, self.n, self.k = m, n, k
        rows = torch.randn(m * n, length, generator=generator)
        self.rows = nn.Parameter(rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True))

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Encode samples."""

    def loss(self, x: Tensor) -> Tensor:
        """Compute the mean of ‖x − x̂‖²."""
        return (x - self.decode(self.codes(x))).square().sum(dim=1).mean()

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes."""
        return codes.flatten(1) @ self.rows

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Restore the constraint of the decoder."""

    @property
    def phi(self) -> Tensor:
        """The dictionary Φ[l, m, n]."""
        return self.rows.detach().mT.unflatten(1, (self.m, self.n))


def kept(codes: Tensor, k: int) -> Tensor:
    """Keep the k groups of largest norm."""
    top = codes.detach().square().sum(dim=2).topk(k, dim=1).indices
    return codes * torch.zeros(codes.shape[:2], device=codes.device).scatter_(1, top, 1.0)[..., None]


class TopKAutoencoder(Autoencoder):
    """Non-negative codes of single directions, the k largest of each sample."""

    def __init__(self, length: int, m: int, k: int, generator: torch.Generator) -> None:
        super().__init__(length, m, 1, k, generator)
        self.weight = nn.Parameter(self.rows.detach().mT.clone())
        self.offset = nn.Parameter(torch.zeros(length))

    def codes(self, x: Tensor) -> Tensor:
        values, indices = ((x - self.offset) @ self.weight).topk(self.k, dim=1)
        return torch.zeros(len(x), self.m, device=x.device).scatter(1, indices, values.relu())[..., None]

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes) + self.offset

    @torch.no_grad()
    def after_step(self, step: int) -> None:  # noqa: ARG002
        self.rows /= torch.linalg.vector_norm(self.rows, dim=1, keepdim=True)


class Vanilla(Autoencoder):
    """A free encoder and a free decoder with ‖Φ_i‖_F ≤ 1; the k groups of largest norm."""

    def __init__(self, length: int, m: int, n: int, k: int, generator: torch.Generator) -> None:
        super().__init__(length, m, n, k, generator)
        self.after_step(0)
        # With ‖Φ_i‖_F = 1, n·Φ_iᵀx is about the least-squares code of a group by itself.
        self.weight = nn.Parameter(n * self.rows.detach().mT)
        self.bias = nn.Parameter(torch.zeros(m * n))

    def precodes(self, x: Tensor) -> Tensor:
        """Compute the codes of all groups."""
        return torch.addmm(self.bias, x, self.weight).unflatten(1, (self.m, self.n))

    def codes(self, x: Tensor) -> Tensor:
        return kept(self.precodes(x), self.k)

    @torch.no_grad()
    def after_step(self, step: int) -> None:  # noqa: ARG002
        norms = torch.linalg.vector_norm(self.rows.unflatten(0, (self.m, self.n)), dim=(1, 2))
        self.rows /= norms.clamp_min(1).repeat_interleave(self.n)[:, None]


class GroupLasso(Vanilla):
    """The same with a block soft threshold, and λ Σ‖a_i‖ while more than k groups are active."""

    def __init__(self, length: int, m: int, n: int, k: int, generator: torch.Generator, *, lam: float = 0.1) -> None:
        super().__init__(length, m, n, k, generator)
        self.lam = lam
        self.log_theta = nn.Parameter(torch.zeros(m))

    def codes(self, x: Tensor) -> Tensor:
        codes = self.precodes(x)
        lengths = torch.linalg.vector_norm(codes, dim=2).clamp_min(1e-12)
        return codes * (1 - self.log_theta.exp() / lengths).clamp_min(0)[..., None]

    def loss(self, x: Tensor) -> Tensor:
        codes = self.codes(x)
        lengths = torch.linalg.vector_norm(codes.flatten(0, 1), dim=1).view(codes.shape[:2])
        loss = (x - self.decode(codes)).square().sum(dim=1).mean()
        too_many = float((lengths > 0).float().sum(dim=1).mean()) > self.k
        return loss + self.lam * lengths.sum(dim=1).mean() if too_many else loss


class Grassmannian(Autoencoder):
    """A tied encoder with one gain γ > 0; frames orthonormal by QR every 20 steps."""

    def __init__(self, length: int, m: int, n: int, k: int, generator: torch.Generator) -> None:
        super().__init__(length, m, n, k, generator)
        self.log_gain = nn.Parameter(torch.zeros(()))
        self.after_step(19)

    def codes(self, x: Tensor) -> Tensor:
        return kept(self.log_gain.exp() * (x @ self.rows.mT).unflatten(1, (self.m, self.n)), self.k)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if step % 20 == 19:
            self.rows.copy_(torch.linalg.qr(self.rows.unflatten(0, (self.m, self.n)).mT).Q.mT.flatten(0, 1))


def train(
    model: Autoencoder,
    batches: Callable[[], Tensor],
    *,
    steps: int,
    lr: float = 3e-3,
    aux: bool = False,
) -> None:
    """Train with Adam and a learning rate that falls by a cosine.

    With `aux`, the next k groups by norm must explain the error, with weight 1/k (Vanilla only).
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for step in range(steps):
        x = batches()
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(x)
        if aux and isinstance(model, Vanilla):
            codes = model.precodes(x)
            active = kept(codes, model.k)
            rest = kept(codes * (active == 0), model.k)
            error = (x - model.decode(active)).detach()
            loss = loss + (error - model.decode(rest)).square().sum(dim=1).mean() / model.k
        loss.backward()
        optimizer.step()
        schedule.step()
        model.after_step(step)
    with torch.no_grad():
        model.after_step(19)


class WithAuxiliaryLoss(BlockSparseAutoencoder):
    """A linear encoder and orthonormal frames; the next k groups by norm must explain the error, with weight 1/k."""

    def forward(self, x: Tensor) -> FeatureOutput:
        output = super().forward(x)
        if not self.training:
            return output
        inputs, rows, bias = self.encoder(x, self.frames)
        codes = (inputs @ rows.flatten(0, 1).mT).unflatten(1, rows.shape[:2]) + bias
        following = kept(codes * ~output.codes.dense().any(dim=2, keepdim=True), self.active)
        error = (x - output.reconstruction).detach()
        left = error - following.flatten(1) @ self.frames.flatten(0, 1)
        return output._replace(loss=output.loss + left.square().mean() / self.active)


class MixtureOfFactorAnalyzers:
    """A mixture of m Gaussians of covariance W Wᵀ + σ²I with W of n columns, fitted by EM from random samples."""

    def __init__(self, m: int, n: int, *, steps: int = 20) -> None:
        self.m, self.n, self.steps = m, n, steps

    def fit(self, x: Tensor, generator: torch.Generator) -> "MixtureOfFactorAnalyzers":
        """Fit to samples [samples, l]."""
        length = x.shape[1]
        centres = x[torch.randperm(len(x), generator=generator)[: self.m].to(x.device)]
        for _ in range(10):  # k-means
            labels = torch.cat([torch.cdist(part, centres).argmin(dim=1) for part in x.split(8192)])
            counts = torch.bincount(labels, minlength=self.m).clamp_min(1)
            centres = torch.zeros_like(centres).index_add_(0, labels, x) / counts[:, None]
        resp = torch.nn.functional.one_hot(labels, self.m).float()
        spread = float(x.var(dim=0).mean())
        for step in range(self.steps):
            total = resp.sum(dim=0)
            self.log_weights = ((total + 1) / (len(x) + self.m)).log()
            self.means = resp.mT @ x / (total + 1)[:, None]
            covariance = x.new_empty(self.m, length, length)
            for k in range(self.m):
                rows = (resp[:, k] > 1e-3).nonzero()[:, 0]
                centred = x[rows] - self.means[k]
                covariance[k] = (resp[rows, k, None] * centred).mT @ centred
            # Shrunk towards the spread of all samples, with the weight of five samples.
            covariance += 5 * spread * torch.eye(length, device=x.device)
            values, vectors = torch.linalg.eigh(covariance / (total + 5)[:, None, None])
            self.noise = values[:, : -self.n].mean(dim=1)
            self.W = vectors[..., -self.n :] * (values[:, -self.n :] - self.noise[:, None]).clamp_min(0).sqrt()[:, None]
            if step < self.steps - 1:
                resp = torch.cat([self._joint(part)[0].softmax(dim=1) for part in x.split(4096)])
        return self

    def _joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, k) up to a constant and E[z | x, k], [batch, m] and [batch, m, n]."""
        length = x.shape[1]
        inner = self.W.mT @ self.W + self.noise[:, None, None] * torch.eye(self.n, device=x.device)
        centred = torch.einsum("bl,mln->bmn", x, self.W) - torch.einsum("ml,mln->mn", self.means, self.W)
        factor = torch.linalg.cholesky(inner)  # not a batched LU solver, which can hang in MKL with two threads
        z = torch.einsum("mij,bmj->bmi", torch.cholesky_inverse(factor), centred)
        power = torch.cdist(x, self.means).square()
        quadratic = (power - (centred * z).sum(dim=2)) / self.noise
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1) + (length - self.n) * self.noise.log()
        return self.log_weights - 0.5 * (quadratic + log_det), z

    def codes(self, x: Tensor) -> Tensor:
        """Encode by the most probable component: [batch, m, n + 1], the last coefficient is that of its mean."""
        joint, z = self._joint(x)
        best = torch.zeros_like(joint).scatter_(1, joint.argmax(dim=1, keepdim=True), 1.0)
        return torch.cat([z, torch.ones_like(z[..., :1])], dim=2) * best[..., None]

    @property
    def phi(self) -> Tensor:
        """The factors and the mean of each component, [l, m, n + 1]."""
        return torch.cat([self.W, self.means[..., None]], dim=2).permute(1, 0, 2)

    @property
    def frames(self) -> Tensor:
        """Orthonormal bases of the factors, Φ[l, m, n]."""
        return torch.linalg.qr(self.W).Q.permute(1, 0, 2)


def directional_recovery(codes: Tensor, rows: Tensor, data: ManifoldSum, samples: ManifoldSamples) -> Tensor:
    """Compute the block R² of single directions: the b best predictors of a factor of b dimensions count as its group.

    Args:
        codes: Codes [batch, m] of single directions.
        rows: The directions as rows, [m, l].
        data: The factors.
        samples: The samples.
    """
    fires, active, true_phi = codes > 0, samples.active, data.phi.double().to(codes.device)
    both = active.mT.float() @ fires.float()
    f1 = 2 * both / (active.sum(dim=0)[:, None] + fires.sum(dim=0)).clamp_min(1)
    r2 = torch.full((active.shape[1],), math.nan, dtype=torch.float64, device=codes.device)
    for factor, dimension in enumerate(data.dimensions):
        present = active[:, factor]
        atoms = f1[factor].topk(dimension).indices
        truth = samples.codes[present, factor].double() @ true_phi[:, factor].mT
        contribution = codes[present][:, atoms].double() @ rows[atoms].double()
        spread = (truth - truth.mean(dim=0)).square().sum()
        r2[factor] = 1 - (truth - contribution).square().sum() / spread
    return r2


def utilisation(codes: Tensor, phi: Tensor) -> float:
    """Compute the mean over used groups of the participation ratio of their contributions, divided by their size."""
    ratios: list[float] = []
    for group in range(codes.shape[1]):
        on = codes[codes[:, group].any(dim=1), group].double()
        if len(on) < 2 * codes.shape[2]:
            continue
        # Of the contributions Φ_i a_i, because atoms of free frames differ in length.
        root = on @ torch.linalg.qr(phi[:, group].double()).R.mT
        values = torch.linalg.eigvalsh(root.mT @ root / len(root)).clamp_min(0)
        ratios.append(float(values.sum().square() / values.square().sum().clamp_min(1e-300)) / codes.shape[2])
    return mean(ratios) if ratios else float("nan")
