"""Recover factors of known subspaces by additive factor analysers, beside a mixture of factor analysers.

A sample is the sum of 4 of 128 factors: points on segments, circles, spheres, Swiss rolls and others, in random
subspaces of 128 dimensions. The model may use 256 groups of 4 directions, twice as many groups as there are factors,
and is told neither the number of groups that are on in a sample nor their dimensions. Printed for each seed:

* block R² of the factors, of the groups whose inclusion probability is above 1/2, and the least over factors;
* the share of factors whose group has the right dimension, the number of groups used, and those on in a sample;
* the calibration error of the inclusion probabilities above 0.01, weighted by bins of a tenth;
* the held-out log-likelihood per sample: the bound, annealed importance sampling, a mixture of factor analysers of as
  many components, and scikit-learn's FactorAnalysis.

With noise 0 the likelihood of the true model is unbounded, and the bound depends on the least σ² allowed, `min_noise`.

    python examples/additive_factors.py --seeds 5
"""

import argparse
import math
import time
from typing import NamedTuple

import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import FactorAnalysis
from torch import Tensor

from gramian.coding import AdditiveFactorAnalyzers, ManifoldSum, block_recovery


class MixtureOfFactorAnalyzers:
    """A mixture of m Gaussians of covariance W Wᵀ + σ²I with W of n columns, fitted by EM from k-means."""

    def __init__(self, m: int, n: int, *, steps: int = 12, seed: int = 0) -> None:
        self.m, self.n, self.steps, self.seed = m, n, steps, seed

    def fit(self, x: Tensor) -> "MixtureOfFactorAnalyzers":
        """Fit to samples [samples, l]."""
        labels = MiniBatchKMeans(self.m, random_state=self.seed, n_init=1).fit_predict(x.numpy())
        resp = torch.nn.functional.one_hot(torch.as_tensor(labels).long(), self.m).float()
        variance = float(x.var(dim=0).mean())
        for step in range(self.steps):
            self._maximize(x, resp, variance)
            if step < self.steps - 1:
                resp = self._joint(x).softmax(dim=1)
        return self

    def _maximize(self, x: Tensor, resp: Tensor, variance: float) -> None:
        """Fit every component to its weighted covariance, shrunk towards that of all samples."""
        l = x.shape[1]  # noqa: E741
        self.log_weights = (resp.sum(dim=0) + 1).log() - math.log(len(x) + self.m)
        self.means, self.factors, self.noise = (
            torch.zeros(self.m, l),
            torch.zeros(self.m, l, self.n),
            torch.ones(self.m),
        )
        for k in range(self.m):
            rows = (resp[:, k] > 1e-3).nonzero()[:, 0]
            r = resp[rows, k]
            mean = (r @ x[rows]) / (r.sum() + 1)
            centred = x[rows] - mean
            prior = 5 * variance * torch.eye(l)
            values, vectors = torch.linalg.eigh(((r[:, None] * centred).mT @ centred + prior) / (r.sum() + 5))
            noise = values[: -self.n].mean()
            self.means[k], self.noise[k] = mean, noise
            self.factors[k] = vectors[:, -self.n :] * (values[-self.n :] - noise).clamp_min(0).sqrt()

    def _joint(self, x: Tensor) -> Tensor:
        out = torch.empty(len(x), self.m)
        l = x.shape[1]  # noqa: E741
        for k in range(self.m):
            w, noise = self.factors[k], self.noise[k]
            inner = noise * torch.eye(self.n) + w.mT @ w
            centred = x - self.means[k]
            products = centred @ w
            quadratic = centred.square().sum(dim=1) - (products * torch.linalg.solve(inner, products.mT).mT).sum(dim=1)
            log_det = torch.logdet(inner) + (l - self.n) * noise.log()
            out[:, k] = self.log_weights[k] - 0.5 * (quadratic / noise + log_det + l * math.log(2 * math.pi))
        return out

    def score(self, x: Tensor) -> float:
        """Compute the mean log-likelihood of samples."""
        return float(self._joint(x).logsumexp(dim=1).mean())


class Result(NamedTuple):
    """The figures of one seed."""

    seconds: float
    r2: float
    least_r2: float
    dimensions: float
    groups: int
    active: float
    calibration: float
    bound: float
    ais: float


def calibration_error(predicted: Tensor, present: Tensor) -> float:
    """Compute the mean over predictions above 0.01 of |frequency − mean prediction| in bins of a tenth."""
    keep = predicted > 0.01
    p, y = predicted[keep], present[keep].float()
    bins = (10 * p).long().clamp_max(9)
    total = torch.zeros(10).index_add_(0, bins, p - y).abs().sum()
    return float(total / len(p))


def measure(data: ManifoldSum, model: AdditiveFactorAnalyzers, seconds: float, seed: int) -> Result:
    test = data.draw(10_000, seed=10_000 + seed)
    posterior = model.posterior(test.x)
    on = posterior.inclusion > 0.5
    recovery = block_recovery(model.phi_, posterior.codes * on[..., None], data.phi, test.codes, test.active)
    right = torch.as_tensor(model.dimension_)[recovery.group] == torch.tensor(data.dimensions)
    return Result(
        seconds=seconds,
        r2=float(recovery.r2.mean()),
        least_r2=float(recovery.r2.min()),
        dimensions=float(right.float().mean()),
        groups=model.n_groups_,
        active=float(on.float().sum(dim=1).mean()),
        calibration=calibration_error(posterior.inclusion[:, recovery.group], test.active),
        bound=model.score(test.x),
        ais=float(model.log_likelihood(test.x[:100], method="ais", chains=4, steps=10).mean()),
    )


def main() -> None:
    """Print one line for each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--groups", type=int, default=256)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--active", type=int, default=4, help="groups that the autoencoder of the start keeps")
    parser.add_argument("--start", default="autoencoder")
    parser.add_argument("--baselines", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        data = ManifoldSum(noise=arguments.noise, seed=seed)
        x = data.draw(arguments.samples, seed=1000 + seed).x
        began = time.perf_counter()
        model = AdditiveFactorAnalyzers(
            arguments.groups, 4, active=arguments.active, start=arguments.start, max_iter=1, random_state=seed
        ).fit(x)
        result = measure(data, model, time.perf_counter() - began, seed)
        print(
            f"seed {seed}: R² {result.r2:.4f} (least {result.least_r2:.3f}), dimensions {result.dimensions:.1%}, "
            f"{result.groups} groups used, {result.active:.2f} on, calibration {result.calibration:.4f}, "
            f"bound {result.bound:.1f}, AIS {result.ais:.1f}, {result.seconds:.0f} s",
            flush=True,
        )
        if arguments.baselines:
            held_out, few = data.draw(10_000, seed=10_000 + seed).x, x[:30_000]
            mixture = MixtureOfFactorAnalyzers(arguments.groups, 4, seed=seed).fit(few).score(held_out)
            single = (
                FactorAnalysis(64, svd_method="randomized", random_state=seed).fit(few.numpy()).score(held_out.numpy())
            )
            print(f"         mixture of factor analysers {mixture:.1f}, factor analysis {single:.1f}", flush=True)


if __name__ == "__main__":
    main()
