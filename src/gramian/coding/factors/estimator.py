"""Additive factor analysers as an estimator with the interface of scikit-learn."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gramian.coding.arrays import GroupTransformer, as_tensor, like, mean_and_scale, seed_of
from gramian.coding.factors.ais import annealed_log_likelihood
from gramian.coding.factors.file import factor_model, load_factors, save_factors
from gramian.coding.factors.inference import bound, infer
from gramian.coding.factors.learning import anneal, begin, improve, move, online_step
from gramian.coding.factors.options import FactorOptions, checked_options
from gramian.coding.factors.parameters import FactorParameters
from gramian.coding.factors.posterior import FactorPosterior, dense, draw_codes
from gramian.coding.factors.start import random_frames
from gramian.coding.model import reconstruct
from gramian.errors import OptionError
from gramian.options import whole_number

__all__ = ["AdditiveFactorAnalyzers"]

_CHUNK = 2048
_METHODS = ("bound", "ais")
_RELEVANT = 1e-3
"""Directions below this fraction of the largest variance of their group do not count in its dimension."""


class AdditiveFactorAnalyzers(GroupTransformer):
    r"""Learn a sum of factor analysers, of which a few are on in each sample.

    The model is x = c + Σ_i s_i Φ_i a_i + ε with s_i ~ Bernoulli(π_i), a_i ~ N(0, diag v_i), orthonormal frames Φ_i of
    n directions and ε ~ N(0, σ²I). A mixture of factor analysers has exactly one group on; here any number may be.

    Learning maximises a variational lower bound of the likelihood. The evidence for a group contains a price for each
    of its directions, ½ log(1 + v_j/σ²). So the variances of unused directions become 0: every group learns its
    dimension. Frames start from a one-pass autoencoder. EM then lowers the noise σ² step by step; groups that hold
    several factors are split, and groups that hold the same factor or always fire together are merged, where that
    raises the bound. Finally EM runs on all samples; there the bound never falls. Groups that are not needed stay off:
    `n_groups` is an upper limit.

    Samples are arrays, or tensors on any device. Results are of the same kind, on the same device, and keep the data
    type float32 or float64.

    Args:
        n_groups: Largest number of groups m.
        group_size: Largest dimension n of a group, n ≤ number of features.
        active: Number of groups that the autoencoder keeps for each sample. Inference does not use it.
        start: 'autoencoder', or 'random' for random frames.
        start_steps: Steps of the autoencoder, with batches of 512 samples.
        anneal_steps: EM steps while the least σ² falls from 0.1 to `min_noise`.
        batch_size: Samples of each of these steps.
        max_iter: Largest number of EM steps on all samples.
        tol: Increase of the mean bound below which EM ends.
        candidates: Largest number of groups considered for a sample.
        sweeps: Sweeps of coordinate ascent over the candidates.
        min_noise: Least σ², relative to the variance of the samples; data without noise end there.
        n_init: Number of starts, of which the one with the best bound is kept.
        memory: Number of recent samples that `partial_fit` weights; older ones fade.
        center: If true, the mean c is learned. False sets c = 0.
        random_state: Seed of the start and the batches.

    Attributes:
        phi_: Frames Φ[l, m, n], a tensor. Groups are sorted by the variance that they explain, directions of a group by
            their variance; frames of unused groups are arbitrary.
        pi_: Probabilities π that a group is on, an array [m]; 0 for unused groups.
        variances_: Variances v, an array [m, n]; 0 for unused directions.
        noise_: Variance σ² of the noise.
        mean_: The mean c of samples without groups, an array [l]; it starts from the mean of the training samples.
        scale_: The standard deviation of the training samples about their mean, over all features.
        dimension_: Number of directions of each group whose variance is above that of the noise, an array [m].
        n_groups_: Number of groups that are used.
        bound_: Mean bound of the training samples at each EM step on all samples; it never falls.
        components_: The directions as rows, an array [m·n, l], ordered by group.
        n_features_in_: Number of features l.
        n_iter_: Number of EM steps on all samples, and of calls of `partial_fit`.
        n_samples_seen_: Number of samples of `fit` and `partial_fit`.

    Examples:
        >>> from gramian.coding import ManifoldSum
        >>> X = ManifoldSum(16, n_factors=4, active=2, noise=0.1).draw(2000, seed=0).x
        >>> model = AdditiveFactorAnalyzers(8, 3, active=2, start_steps=300, anneal_steps=8).fit(X)
        >>> model.transform(X[:10]).shape, model.posterior(X[:10]).inclusion.shape
        (torch.Size([10, 24]), torch.Size([10, 8]))
        >>> model.score(X) > AdditiveFactorAnalyzers(1, 3, active=1, start_steps=300, anneal_steps=8).fit(X).score(X)
        True

    References:
        Ghahramani and Hinton, "The EM algorithm for mixtures of factor analyzers", 1996; Titsias and Lázaro-Gredilla,
        "Spike and slab variational inference for multi-task and multiple kernel learning", 2011; Ueda et al., "SMEM
        algorithm for mixture models", 2000, doi:10.1162/089976600300015088.
    """

    def __init__(
        self,
        n_groups: int = 64,
        group_size: int = 4,
        *,
        active: int = 4,
        start: str = "autoencoder",
        start_steps: int = 2000,
        anneal_steps: int = 24,
        batch_size: int = 8192,
        max_iter: int = 4,
        tol: float = 1e-3,
        candidates: int = 8,
        sweeps: int = 2,
        min_noise: float = 1e-5,
        n_init: int = 1,
        memory: int = 100_000,
        center: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_groups = n_groups
        self.group_size = group_size
        self.active = active
        self.start = start
        self.start_steps = start_steps
        self.anneal_steps = anneal_steps
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.candidates = candidates
        self.sweeps = sweeps
        self.min_noise = min_noise
        self.n_init = n_init
        self.memory = memory
        self.center = center
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "AdditiveFactorAnalyzers":  # noqa: ARG002
        """Learn all parameters.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored; pipelines pass it.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples are equal; without `center`, if all are zero.

        Cost:
            Memory for the samples, (m·n)² numbers, and about 200 bytes for each sample and four groups.
        """
        samples = self._samples(X, reset=True)
        options = self._options(samples)
        self.mean_, self.scale_ = mean_and_scale(samples, center=self.center)
        x = self._standardised(samples)
        runs: list[tuple[FactorParameters, list[float]]] = []
        for number in range(self.n_init):
            generator = torch.Generator().manual_seed((seed_of(self.random_state) + 7919 * number) % 2**63)
            runs.append(improve(x, anneal(x, begin(x, options, generator), options, generator), options))
        parameters, history = max(runs, key=lambda run: run[1][-1])
        self._state = None
        self.n_samples_seen_ = len(samples)
        self.n_iter_ = len(history) - 1
        self.bound_ = [each - samples.shape[1] * math.log(self.scale_) for each in history]
        return self._update_attributes(parameters)

    def partial_fit(self, X: Any, y: Any = None) -> "AdditiveFactorAnalyzers":  # noqa: ARG002
        """Make one EM step with these samples and the fading moments of earlier ones; the first call equals `fit`.

        Memory does not grow with the number of samples. `scale_` stays that of the first samples, and the first
        call needs some thousands of them.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If the samples of the first call are all equal.
        """
        if not hasattr(self, "_factors"):
            return self.fit(X)
        samples = self._samples(X)
        options = self._options(samples)
        x = self._standardised(samples).to(self.phi_)
        keep = max(0.0, 1 - len(x) / self.memory)
        parameters, moved = move(x, self._factors, options)
        state = None if moved else self._state
        parameters, self._state = online_step(x, parameters, state, options, keep=keep)
        self.n_samples_seen_ += len(x)
        self.n_iter_ += 1
        return self._update_attributes(parameters, sort=False)

    def transform(self, X: Any) -> Any:
        """Compute the posterior means of s_i a_i, [samples, m·n], ordered by group."""
        return like(self._posterior(self._samples(X)).codes.flatten(1), X)

    def inverse_transform(self, codes: Any) -> Any:
        """Compute c + Σ_i Φ_i a_i from codes [samples, m·n]."""
        check_is_fitted(self)
        flat = as_tensor(codes)
        x = reconstruct(self.phi_.to(flat), self._grouped(flat))
        return like(x + torch.as_tensor(self.mean_).to(x), codes)

    def posterior(self, X: Any) -> FactorPosterior:
        """Infer which groups are on, and their coefficients.

        Args:
            X: Samples [samples, l], an array or tensor.

        Returns:
            Tensors of inclusion probabilities, means and variances.

        Cost:
            samples·m·n numbers.
        """
        return self._posterior(self._samples(X))

    def log_likelihood(
        self,
        X: Any,
        method: str = "bound",
        *,
        chains: int = 8,
        steps: int = 50,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Any:
        """Compute a lower bound or estimate of the log-likelihood of samples.

        Args:
            X: Samples [samples, l], an array or tensor.
            method: 'bound' for the variational lower bound, or 'ais' for annealed importance sampling from the
                variational posterior, whose expectation lies between the bound and the true value.
            chains: Number of chains for each sample.
            steps: Number of intermediate distributions.
            random_state: Seed of annealed importance sampling.

        Returns:
            Log-likelihoods in the original units, [samples].

        Raises:
            OptionError: If an option is out of range.
        """
        if method not in _METHODS:
            raise OptionError(f"method must be one of {', '.join(map(repr, _METHODS))}; got {method!r}")
        whole_number(chains, name="chains")
        whole_number(steps, name="steps")
        samples = self._samples(X)
        parameters = self._on(samples)
        generator = torch.Generator().manual_seed(seed_of(random_state))
        values: list[Tensor] = []
        for x in self._standardised(samples).split(_CHUNK if method == "bound" else max(1, _CHUNK // chains)):
            candidates = infer(x, parameters, self.candidates, self.sweeps)
            values.append(
                bound(x, parameters, candidates)
                if method == "bound"
                else annealed_log_likelihood(
                    x, parameters, candidates, chains=chains, steps=steps, generator=generator
                ).to(x)
            )
        return like(torch.cat(values) - samples.shape[1] * math.log(self.scale_), X)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Compute the mean over samples of the variational lower bound of the log-likelihood."""
        return float(as_tensor(self.log_likelihood(X)).double().mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0) -> tuple[Any, Any]:
        """Draw samples of the model.

        Args:
            n_samples: Number of samples.
            random_state: Seed.

        Returns:
            Samples [samples, l] and their codes s_i a_i, [samples, m·n], as arrays.
        """
        check_is_fitted(self)
        n_samples = whole_number(n_samples, name="n_samples")
        generator = torch.Generator().manual_seed(seed_of(random_state))
        codes = draw_codes(n_samples, torch.as_tensor(self.pi_), torch.as_tensor(self.variances_), generator)
        noise = torch.randn(n_samples, len(self.mean_), generator=generator, dtype=torch.float64, device="cpu")
        x = reconstruct(self.phi_.cpu().double(), codes) + self.noise_**0.5 * noise + torch.as_tensor(self.mean_)
        return x.to(self.phi_.dtype).numpy(), codes.flatten(1).to(self.phi_.dtype).numpy()

    def save(self, path: str | Path) -> None:
        """Write the model to a dictionary file in the safetensors format, with a checksum.

        Args:
            path: Path of the file; an existing file is replaced.

        Raises:
            RunError: If the file cannot be written.
        """
        check_is_fitted(self)
        options = {name: value for name, value in self.get_params().items() if name != "random_state"}
        tensors = {name: torch.as_tensor(getattr(self, f"{name}_")) for name in ("phi", "pi", "variances", "mean")}
        numbers = (self.noise_, self.scale_, self.n_samples_seen_, self.n_iter_)
        model = factor_model(tensors, numbers, used=self.n_groups_, options=options)
        save_factors(Path(path), model)

    @classmethod
    def load(cls, path: str | Path) -> "AdditiveFactorAnalyzers":
        """Read a model that `save` wrote; it encodes, and `partial_fit` continues it.

        Raises:
            RunError: If the file does not exist or is not a complete file of this format.
        """
        model = load_factors(Path(path))
        self = cls(**model.options)
        self.n_features_in_ = len(model.mean)  # pyright: ignore[reportAttributeAccessIssue]
        self.mean_, self.scale_ = model.mean.numpy(), model.scale
        self.n_samples_seen_, self.n_iter_, self.bound_, self._state = model.samples, model.steps, [], None
        return self._update_attributes(model.parameters, sort=False)

    def _options(self, samples: Tensor) -> FactorOptions:
        for name in ("n_init", "memory"):
            whole_number(getattr(self, name), name=name)
        return checked_options(
            {each.name: getattr(self, each.name) for each in fields(FactorOptions)}, n_features=samples.shape[1]
        )

    def _on(self, samples: Tensor) -> FactorParameters:
        """Return the parameters on the device and in the data type of samples."""
        p = self._factors
        return FactorParameters(p.phi.to(samples), p.pi.to(samples), p.variances.to(samples), p.noise)

    def _posterior(self, samples: Tensor) -> FactorPosterior:
        parameters = self._on(samples)
        m, n = self.phi_.shape[1:]
        inclusion, means = samples.new_zeros(len(samples), m), samples.new_zeros(len(samples), m, n)
        start, used = 0, self.n_groups_
        for x in self._standardised(samples).split(_CHUNK):
            candidates = infer(x, parameters, self.candidates, self.sweeps)
            rows = slice(start, start + len(candidates.groups))
            inclusion[rows, :used], means[rows, :used] = dense(parameters, candidates)
            start = rows.stop
        variances = samples.new_zeros(m, n)
        variances[:used] = parameters.posterior_variances * self.scale_**2
        return FactorPosterior(inclusion, means * self.scale_, variances)

    def _update_attributes(self, parameters: FactorParameters, *, sort: bool = True) -> "AdditiveFactorAnalyzers":
        if sort:
            order = (parameters.pi * parameters.variances.sum(dim=1)).argsort(descending=True)
            parameters = replace(
                parameters,
                phi=parameters.phi[:, order].contiguous(),
                pi=parameters.pi[order],
                variances=parameters.variances[order],
            )
        if parameters.mean is not None:
            self.mean_ = self.mean_ + self.scale_ * parameters.mean.double().cpu().numpy()
            parameters = replace(parameters, mean=None)
        self._factors = parameters
        length, used, n = parameters.phi.shape
        spare = random_frames(length, self.n_groups - used, n, torch.Generator().manual_seed(0)).to(parameters.phi)
        self.phi_ = torch.cat([parameters.phi, spare], dim=1)
        self.pi_ = np.zeros(self.n_groups, dtype=np.float64)
        self.variances_ = np.zeros((self.n_groups, n), dtype=np.float64)
        variances = parameters.variances.double().cpu().numpy()
        self.pi_[:used], self.variances_[:used] = parameters.pi.cpu().numpy(), variances * self.scale_**2
        self.noise_ = parameters.noise * self.scale_**2
        relevant = (variances > parameters.noise) & (variances > _RELEVANT * variances.max(axis=1, keepdims=True))
        self.dimension_ = np.zeros(self.n_groups, dtype=np.int64)
        self.dimension_[:used] = relevant.sum(axis=1)
        self.n_groups_ = used
        self.components_ = self.phi_.flatten(1).mT.cpu().numpy().copy()
        self._n_features_out = self.components_.shape[0]
        return self
