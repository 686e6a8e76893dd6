"""The choices and defaults of options, for `--help`.

They repeat the registries of the package, because importing those loads torch, which takes seconds. A test compares
both. A shared table of names would not avoid the repetition, because a registry also maps each name to its class or
function.
"""

from math import inf
from types import SimpleNamespace

__all__ = [
    "DEFAULTS",
    "ENCODERS",
    "FEATURE_DEFAULTS",
    "METHODS",
    "PENALTIES",
    "PRIORS",
    "RULES",
    "SELECTIONS",
    "UPDATES",
    "WHITENINGS",
]

PENALTIES = ("l1", "huber", "squared_frobenius", "frobenius", "spectral", "coherence", "logdet")
RULES = ("proximal", "polyak", "subgradient")
WHITENINGS = ("fourier", "zca", "none")
UPDATES = ("sgd", "online")
PRIORS = ("group_laplace", "nonnegative", "scale_mixture", "group_l0", "spike_slab")
METHODS = ("auto", "fista", "lca", "coordinate_descent", "block_omp", "block_iht")
ENCODERS = ("linear", "tied", "iterative")
SELECTIONS = ("topk", "batch_topk", "threshold", "fdr", "soft")

DEFAULTS = SimpleNamespace(
    groups=64, size=4, patch=16, whiten="fourier", lam=2.0, beta=0.3, lr=0.5, steps=8000, batch=128, rule="proximal",
    penalty="l1", update="sgd", prior="group_laplace", infer="auto", device="cpu", spread=1, seed=0,
)  # fmt: skip
"""Defaults of `RunSettings`."""

FEATURE_DEFAULTS = SimpleNamespace(
    groups=512, size=4, active=16, encoder="linear", select="topk", rate=0.1, beta=inf, patience=200, lr=3e-3,
    warm_up=0, steps=4000, batch=512, device="cpu", seed=0,
)  # fmt: skip
"""Defaults of `FeatureSettings`."""
