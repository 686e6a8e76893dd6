"""Subspace sparse coding as an estimator, with scikit-learn's verbs."""

import math
import warnings
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
from gramian.coding.options import real_number, whole_number
from gramian.coding.prior import Codes, Prior, as_prior, energy, group_norms, reconstruct
from gramian.errors import DataError, OptionError, ShapeError
from gramian.penalties import Penalty
from gramian.rules import Rule

__all__ = ["SubspaceSparseCoding"]


class SubspaceSparseCoding(TransformerMixin, BaseEstimator):
    r"""Learn a dictionary whose atoms stand in orthonormal groups, and code samples with a group prior.

    Minimises the mean over samples of min_a ½‖(x − c)/s − Σ_i Φ_i a_i‖² + λ Σ_i ‖a_i‖₂, with every group Φ_iᵀΦ_i driven
    to I by a decoupled step on β Σ_i μ(Φ_iᵀΦ_i − I). c is the mean of the training samples, feature by feature, and s
    the standard deviation of all features about it, so that λ means the same for data of any place and scale.
    `partial_fit` takes both of all samples that it has been given so far, with this batch. Where every code is zero,
    there is a warning.

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
        center: Whether c is taken off. False leaves samples as they are, for data whose zero means something, as with
            the non-negative prior; s is then their root mean square.
        tol: Relative duality gap at which `transform` stops.
        max_iter: Most iterations of `transform`.
        random_state: Seed of the first dictionary and of the batches.

    Attributes:
        phi_: The dictionary Φ[l, m, n], a tensor.
        components_: The atoms as rows, an array [m·n, l], group by group.
        lam_: λ as it is after learning; `lam` unless `target_active` is given.
        mean_: The mean c of the training samples, an array [l]; zeros where `center` is False.
        scale_: The standard deviation s of the training samples about it.
        n_samples_seen_: How many samples these two are of.
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
        center: bool = True,
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
        self.center = center
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
            DataError: If all samples are equal; without `center`, if all are zero.

        Warns:
            UserWarning: If no step found any group active.
        """
        samples = self._samples(X, reset=True)
        self._begin(samples)
        generator = torch.Generator().manual_seed(self._seed)
        active = 0.0
        for step in range(self.steps):
            chosen = torch.randint(len(samples), (self.batch_size,), generator=generator, device="cpu")
            batch = self._standardised(samples[chosen.to(samples.device)])
            active += self._learner.step(batch, lr=cosine_decay(self.lr, step, self.steps)).active_groups
        if active == 0:
            self._warn(self._standardised(samples))
        return self._learned()

    def partial_fit(self, X: Any, y: Any = None) -> "SubspaceSparseCoding":  # noqa: ARG002
        """Make one learning step with these samples; `mean_` and `scale_` become those of all samples so far.

        After `fit` it goes on from there, and so do these two.

        Args:
            X: Samples [samples, l], an array or tensor.
            y: Ignored.

        Returns:
            The estimator itself.

        Raises:
            OptionError: If an option is out of range.
            DataError: If all samples so far are equal; without `center`, if all are zero.

        Warns:
            UserWarning: If no group is active.
        """
        begun = hasattr(self, "_learner")
        samples = self._samples(X, reset=not begun)
        if begun:
            self._see(samples)
        else:
            self._begin(samples)
        batch = self._standardised(samples).to(self.phi_)
        if self._learner.step(batch, lr=self.lr).active_groups == 0:
            self._warn(batch)
        return self._learned()

    def transform(self, X: Any) -> Any:
        """Code samples: coefficients [samples, m·n], group by group; with a warning if all of several are zero."""
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
        """Give the reconstruction [samples, l] that codes stand for, in the place and scale of the training samples."""
        check_is_fitted(self)
        flat = _tensor(codes)
        reached = reconstruct(self._phi(flat), self._grouped(flat))
        return _like(reached * self.scale_ + torch.as_tensor(self.mean_).to(reached), codes)

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
        terms = energy(self._standardised(samples), self._phi(samples), given, self.lam_, as_prior(self.prior))
        length, m, n = self.phi_.shape
        normalizer = as_prior(self.prior).log_normalizer(m, n, self.lam_)
        constant = normalizer + length * (0.5 * math.log(2 * math.pi) + math.log(self.scale_))
        return _like(-terms.total - constant, X)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Give the mean of `log_prob` over samples, with their most probable codes."""
        return float(np.mean(np.asarray(_tensor(self.log_prob(X)).cpu())))

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0) -> tuple[Any, Any]:
        """Draw from the model: codes from the prior, and samples with noise of unit variance before scale and mean.

        Args:
            n_samples: How many.
            random_state: Seed.

        Returns:
            Samples [samples, l] and the codes [samples, m·n] that made them, arrays.
        """
        check_is_fitted(self)
        n_samples = whole_number(n_samples, name="n_samples")
        generator = torch.Generator().manual_seed(_seed_of(random_state))
        length, m, n = self.phi_.shape
        drawn = as_prior(self.prior).sample(n_samples, m, n, self.lam_, generator=generator)
        noise = torch.randn(n_samples, length, generator=generator, dtype=torch.float64, device="cpu")
        x = (reconstruct(self.phi_.cpu().double(), drawn) + noise) * self.scale_ + torch.from_numpy(self.mean_)
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
            whole_number(getattr(self, name), name=name)
        real_number(self.lr, name="lr", attempt="0.5")
        real_number(self.tol, name="tol", zero=True, attempt="1e-4")
        if not isinstance(self.center, bool | np.bool_):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"center must be True or False; got {self.center!r}")
        if self.group_size > samples.shape[1]:
            raise OptionError(
                f"a group of {self.group_size} orthonormal atoms needs samples of as many features; got n_features = "
                f"{samples.shape[1]}; try group_size={samples.shape[1]}"
            )
        self.n_samples_seen_ = 0
        self._see(samples)
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
        self._learned()

    def _see(self, samples: Tensor) -> None:
        """Let the mean and the scale be those of these samples too."""
        wide = samples.cpu().double()
        seen, count = self.n_samples_seen_, len(wide)
        mean = wide.mean(dim=0) if self.center else torch.zeros_like(wide[0])
        spread = float((wide - mean).square().mean())
        if seen:
            before, share = torch.from_numpy(self.mean_), count / (seen + count)
            apart = float((mean - before).square().mean())
            # The mean square about the common mean is that about each, and what the two are apart.
            spread = (1 - share) * self.scale_**2 + share * spread + share * (1 - share) * apart
            mean = torch.lerp(before, mean, share)
        # Of equal numbers, the rounding of their mean is all that is left.
        if not spread**0.5 > 4 * torch.finfo(wide.dtype).eps * float(wide.abs().max()):
            what = "must differ; got one value in every feature" if self.center else "must not all be zero; got zeros"
            raise DataError(f"samples {what}, n_samples = {seen + count}; try other samples, or more of them")
        self.mean_, self.scale_, self.n_samples_seen_ = mean.numpy(), spread**0.5, seen + count

    def _standardised(self, samples: Tensor) -> Tensor:
        return (samples - torch.as_tensor(self.mean_).to(samples)) / self.scale_

    def _warn(self, x: Tensor) -> None:
        """Say that every code is zero, and from which λ on one would not be."""
        strongest = float(group_norms((x @ self._phi(x).flatten(1)).unflatten(1, self.phi_.shape[1:])).max())
        mean = "" if self.center else ", or center=True if the samples have a mean"
        warnings.warn(
            f"every code is zero: lam = {self.lam_:.3g} where no group is called for by more than {strongest:.3g}; try "
            f"lam={strongest / 4:.2g}{mean}",
            UserWarning,
            stacklevel=3,
        )

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
        x = self._standardised(samples)
        codes = method(x, phi, lam=self.lam_, prior=self.prior, max_iter=self.max_iter, tol=self.tol).codes
        if len(x) > 1 and not bool(codes.any()):  # of one sample it says nothing of the data
            self._warn(x)
        return codes

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
