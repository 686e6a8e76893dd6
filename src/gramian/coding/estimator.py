"""Subspace sparse coding as an estimator, with scikit-learn's verbs."""

import math
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from gramian.coding.dictionary import cosine_decay, initial_dictionary
from gramian.coding.inference import InferenceMethod
from gramian.coding.learner import Learner
from gramian.coding.methods import as_method
from gramian.coding.prior import Codes, Prior, as_prior, energy, group_norms, reconstruct
from gramian.errors import DataError, OptionError, ShapeError
from gramian.penalties import Penalty
from gramian.rules import Rule

__all__ = ["SubspaceSparseCoding"]


class SubspaceSparseCoding(TransformerMixin, BaseEstimator):
    r"""Learn a dictionary whose atoms stand in orthonormal groups, and code samples with a group prior.

    Minimises the mean over samples of min_a ½‖x/s − Σ_i Φ_i a_i‖² + λ Σ_i ‖a_i‖₂, with every group Φ_iᵀΦ_i driven to I
    by a decoupled step on β Σ_i μ(Φ_iᵀΦ_i − I). s is the standard deviation of the training samples, so that λ means
    the same for data of any scale. Samples should have zero mean, as whitened patches have.

    Samples are arrays, or tensors on any device; what is given back is of the same kind, on the same device. float32
    and float64 stay what they are.

    Args:
        n_groups: Number of groups m.
        group_size: Atoms in a group, n ≤ number of features; 1 is plain sparse coding.
        lam: Sparsity λ > 0, in units of the samples' standard deviation.
        beta: Strength β of the orthogonality penalty; 0.1·λ or more keeps every group whole.
        lr: Learning rate at the first step of `fit`; it falls to 0 along half a cosine. Constant in `partial_fit`.
        steps: Learning steps of `fit`.
        batch_size: Samples in a step of `fit`, drawn anew at each.
        rule: Update rule of the orthogonality step; None for no penalty.
        penalty: Penalty μ.
        update: How the dictionary moves, 'sgd' or 'online'.
        prior: 'group_laplace', 'nonnegative', 'scale_mixture' or a `Prior`.
        target_active: Mean number of active groups towards which λ is moved while learning; None keeps λ.
        patience: After how many steps without use a group is made anew; None leaves it.
        infer: 'fista', 'lca' or an `InferenceMethod`.
        tol: Relative duality gap at which `transform` stops.
        max_iter: Most iterations of `transform`.
        random_state: Seed of the first dictionary and of the batches.

    Attributes:
        phi_: The dictionary Φ[l, m, n], a tensor.
        components_: The atoms as rows, an array [m·n, l], group by group.
        lam_: λ as it is after learning; `lam` unless `target_active` is given.
        scale_: The standard deviation s of the training samples.
        n_features_in_: Number of features l.
        n_iter_: How many learning steps were made.

    Examples:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((500, 16))
        >>> model = SubspaceSparseCoding(n_groups=8, group_size=2, lam=0.5, steps=20).fit(X)
        >>> codes = model.transform(X[:10])
        >>> codes.shape, model.amplitudes(X[:10]).shape, model.inverse_transform(codes).shape
        ((10, 16), (10, 8), (10, 16))
        >>> model.log_prob(X[:10]).shape, model.sample(5)[0].shape
        ((10,), (5, 16))

    References:
        Garrigues and Olshausen, "Group sparse coding with a Laplacian scale mixture prior", 2010; Paiton et al.,
        "Subspace locally competitive algorithms", 2020.
    """

    def __init__(
        self,
        n_groups: int = 64,
        group_size: int = 4,
        *,
        lam: float = 2.0,
        beta: float = 0.3,
        lr: float = 0.5,
        steps: int = 2000,
        batch_size: int = 128,
        rule: str | Rule | None = "proximal",
        penalty: str | Penalty = "l1",
        update: str = "sgd",
        prior: str | Prior = "group_laplace",
        target_active: float | None = None,
        patience: int | None = 200,
        infer: str | InferenceMethod = "fista",
        tol: float = 1e-4,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_groups = n_groups
        self.group_size = group_size
        self.lam = lam
        self.beta = beta
        self.lr = lr
        self.steps = steps
        self.batch_size = batch_size
        self.rule = rule
        self.penalty = penalty
        self.update = update
        self.prior = prior
        self.target_active = target_active
        self.patience = patience
        self.infer = infer
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "SubspaceSparseCoding":  # noqa: ARG002
        """Learn the dictionary from the beginning.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored; present because pipelines pass it.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples are zero.
        """
        samples = self._samples(X, reset=True)
        self._begin(samples)
        generator = torch.Generator().manual_seed(self._seed)
        for step in range(self.steps):
            chosen = torch.randint(len(samples), (self.batch_size,), generator=generator)
            batch = samples[chosen.to(samples.device)] / self.scale_
            self._learner.step(batch, lr=cosine_decay(self.lr, step, self.steps))
        return self._learned()

    def partial_fit(self, X: Any, y: Any = None) -> "SubspaceSparseCoding":  # noqa: ARG002
        """Make one learning step with these samples, of which the first decide the scale.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all of the first samples are zero.
        """
        begun = hasattr(self, "_learner")
        samples = self._samples(X, reset=not begun)
        if not begun:
            self._begin(samples)
        self._learner.step((samples / self.scale_).to(self.phi_), lr=self.lr)
        return self._learned()

    def transform(self, X: Any) -> Any:
        """Code samples: coefficients [samples, m·n], group by group."""
        samples = self._samples(X)
        return _like(self._codes(samples).flatten(1), X)

    def amplitudes(self, X: Any) -> Any:
        """Give the group amplitudes ‖a_i‖₂ of samples, [samples, m]: how much of each group there is."""
        samples = self._samples(X)
        return _like(group_norms(self._codes(samples)), X)

    def directions(self, X: Any) -> Any:
        """Give the directions a_i/‖a_i‖₂ of samples, [samples, m, n]: where in its group; 0 for silent groups."""
        codes = self._codes(self._samples(X))
        return _like(codes / group_norms(codes).clamp_min(torch.finfo(codes.dtype).tiny)[..., None], X)

    def inverse_transform(self, codes: Any) -> Any:
        """Give the reconstruction [samples, l] that codes stand for, in the scale of the training samples."""
        check_is_fitted(self)
        return _like(reconstruct(self._phi(flat := _tensor(codes)), self._grouped(flat)) * self.scale_, codes)

    def log_prob(self, X: Any, codes: Any = None) -> Any:
        """Give log p(x, a) of samples with codes, [samples].

        Args:
            X: Samples [samples, l].
            codes: Codes [samples, m·n]; default the most probable ones, those of `transform`.

        Returns:
            The log of the joint density, of samples in their own units and of codes.
        """
        samples = self._samples(X)
        given = self._codes(samples) if codes is None else self._grouped(_tensor(codes).to(samples))
        terms = energy(samples / self.scale_, self._phi(samples), given, self.lam_, as_prior(self.prior))
        length, m, n = self.phi_.shape
        normalizer = as_prior(self.prior).log_normalizer(m, n, self.lam_)
        constant = normalizer + length * (0.5 * math.log(2 * math.pi) + math.log(self.scale_))
        return _like(-terms.total - constant, X)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Give the mean of `log_prob` over samples, with their most probable codes."""
        return float(np.mean(np.asarray(_tensor(self.log_prob(X)).cpu())))

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0) -> tuple[Any, Any]:
        """Draw from the model: codes from the prior, and samples with noise of unit variance before the scale.

        Args:
            n_samples: How many.
            random_state: Seed.

        Returns:
            Samples [samples, l] and the codes [samples, m·n] that made them, arrays.
        """
        check_is_fitted(self)
        generator = torch.Generator().manual_seed(_seed_of(random_state))
        length, m, n = self.phi_.shape
        drawn = as_prior(self.prior).sample(n_samples, m, n, self.lam_, generator=generator)
        noise = torch.randn(n_samples, length, generator=generator, dtype=torch.float64)
        x = (reconstruct(self.phi_.cpu().double(), drawn) + noise) * self.scale_
        return x.to(self.phi_.dtype).numpy(), drawn.flatten(1).to(self.phi_.dtype).numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ARG002
        """Give the names of the coefficients: group and place in it."""
        check_is_fitted(self)
        _, m, n = self.phi_.shape
        return np.asarray([f"group{i}_{j}" for i in range(m) for j in range(n)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _begin(self, samples: Tensor) -> None:
        for name in ("n_groups", "group_size", "steps", "batch_size", "max_iter"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1; got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise OptionError(f"lr must be positive; got {self.lr!r}; try lr=0.5")
        if self.group_size > samples.shape[1]:
            raise OptionError(
                f"a group of {self.group_size} orthonormal atoms needs samples of as many features; got n_features = "
                f"{samples.shape[1]}; try group_size={samples.shape[1]}"
            )
        scale = float(samples.square().mean().sqrt())
        if scale == 0:
            raise DataError("samples must not all be zero; got nothing but zeros")
        self._seed = _seed_of(self.random_state)
        phi = initial_dictionary(samples.shape[1], self.n_groups, self.group_size, seed=self._seed)
        self._learner = Learner(
            phi.to(samples),
            lam=self.lam,
            beta=self.beta,
            rule=self.rule,
            penalty=self.penalty,
            update=self.update,
            prior=self.prior,
            infer=self.infer,
            target_active=self.target_active,
            patience=self.patience,
        )
        self.scale_ = scale
        self._learned()

    def _learned(self) -> "SubspaceSparseCoding":
        self.phi_ = self._learner.phi
        self.lam_ = self._learner.lam
        self.n_iter_ = self._learner.steps
        self.components_ = self.phi_.flatten(1).mT.cpu().numpy().copy()
        self._n_features_out = self.components_.shape[0]
        return self

    def _samples(self, X: Any, *, reset: bool = False) -> Tensor:
        """Check samples as scikit-learn does, and give them as a tensor on the device where they are."""
        if not reset:
            check_is_fitted(self)
        device = X.device if isinstance(X, Tensor) else torch.device("cpu")
        plain: Any = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
        checked: Any = validate_data(self, X=plain, dtype=[np.float64, np.float32], reset=reset)
        return torch.as_tensor(checked if checked.flags.writeable else checked.copy(), device=device)

    def _codes(self, samples: Tensor) -> Codes:
        phi = self._phi(samples)
        method = as_method(self.infer)
        x = samples / self.scale_
        return method(x, phi, lam=self.lam_, prior=self.prior, max_iter=self.max_iter, tol=self.tol).codes

    def _phi(self, like: Tensor) -> Tensor:
        return self.phi_.to(like)

    def _grouped(self, flat: Tensor) -> Codes:
        m, n = self.phi_.shape[1:]
        if flat.ndim != 2 or flat.shape[1] != m * n:
            raise ShapeError(f"codes must have shape [samples, {m * n}]; got {list(flat.shape)}")
        return flat.unflatten(1, (m, n))


def _tensor(values: Any) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    return tensor if tensor.is_floating_point() else tensor.float()


def _like(tensor: Tensor, given: Any) -> Any:
    return tensor if isinstance(given, Tensor) else tensor.numpy()


def _seed_of(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, int):
        return random_state
    return int(check_random_state(random_state).randint(2**31 - 1))
