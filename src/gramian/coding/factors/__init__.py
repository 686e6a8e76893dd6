"""Additive factor analysers: a probabilistic model whose samples are sums of points in a few learned subspaces."""

from gramian.coding.factors.estimator import AdditiveFactorAnalyzers
from gramian.coding.factors.posterior import FactorPosterior

__all__ = ["AdditiveFactorAnalyzers", "FactorPosterior"]
