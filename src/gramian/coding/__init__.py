"""Subspace sparse coding: priors, inference, dictionary learning, and evaluation of the result."""

from gramian.errors import needs_extra

with needs_extra("gramian.coding", "coding"):
    from gramian.coding.encoders import SparseCodes
    from gramian.coding.energy import Energy, energy
    from gramian.coding.evaluation import (
        GroupPlanes,
        GroupState,
        ManifoldSamples,
        ManifoldSum,
        Recovery,
        block_recovery,
        group_planes,
        group_state,
        smallest_beta,
        snr,
        strongest_groups,
        within_group_cosines,
    )
    from gramian.coding.factors import AdditiveFactorAnalyzers, FactorPosterior
    from gramian.coding.features import BlockFeatures, BlockSparseAutoencoder, FeatureAudit
    from gramian.coding.inference import (
        METHODS,
        Inference,
        InferenceMethod,
        as_method,
        block_iht,
        block_omp,
        coordinate_descent,
        duality_gap,
        fista,
        lca,
        refit,
    )
    from gramian.coding.learning import (
        Learner,
        LearningOptions,
        LearningStep,
        SubspaceSparseCoding,
        cosine_decay,
        initial_dictionary,
    )
    from gramian.coding.model import group_norms, reconstruct
    from gramian.coding.priors import (
        PRIORS,
        GroupL0,
        GroupLaplace,
        LaplacianScaleMixture,
        Prior,
        SpikeSlab,
        as_prior,
        group_soft_threshold,
    )
    from gramian.coding.synthesis import Convolution, Dense, Overlap, Synthesis, as_synthesis

__all__ = [
    "METHODS",
    "PRIORS",
    "AdditiveFactorAnalyzers",
    "BlockFeatures",
    "BlockSparseAutoencoder",
    "Convolution",
    "Dense",
    "Energy",
    "FactorPosterior",
    "FeatureAudit",
    "GroupL0",
    "GroupLaplace",
    "GroupPlanes",
    "GroupState",
    "Inference",
    "InferenceMethod",
    "LaplacianScaleMixture",
    "Learner",
    "LearningOptions",
    "LearningStep",
    "ManifoldSamples",
    "ManifoldSum",
    "Overlap",
    "Prior",
    "Recovery",
    "SparseCodes",
    "SpikeSlab",
    "SubspaceSparseCoding",
    "Synthesis",
    "as_method",
    "as_prior",
    "as_synthesis",
    "block_iht",
    "block_omp",
    "block_recovery",
    "coordinate_descent",
    "cosine_decay",
    "duality_gap",
    "energy",
    "fista",
    "group_norms",
    "group_planes",
    "group_soft_threshold",
    "group_state",
    "initial_dictionary",
    "lca",
    "reconstruct",
    "refit",
    "smallest_beta",
    "snr",
    "strongest_groups",
    "within_group_cosines",
]
