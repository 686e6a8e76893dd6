"""Subspace sparse coding: the group prior, inference, dictionary learning, and how to judge what was learned."""

from gramian.errors import needs_extra

with needs_extra("gramian.coding", "coding"):
    from gramian.coding.dictionary import cosine_decay, initial_dictionary, learning_step
    from gramian.coding.encoding import EncodedPicture, decode_picture, encode_picture, load_codes, save_codes
    from gramian.coding.estimator import SubspaceSparseCoding
    from gramian.coding.evaluation import (
        GroupState,
        debias,
        group_state,
        smallest_beta,
        snr,
        strongest_groups,
        within_group_cosines,
    )
    from gramian.coding.fista import fista
    from gramian.coding.gabor import GaborFit, fit_gabor
    from gramian.coding.gabor_agreement import GaborAgreement, GaborSpread, group_agreement
    from gramian.coding.inference import Inference, InferenceMethod, duality_gap
    from gramian.coding.invariance import Control, PhaseResponse, gratings, phase_response, random_groups, shift_control
    from gramian.coding.lca import Trace, lca, trace_lca
    from gramian.coding.learner import Learner, LearningStep
    from gramian.coding.methods import METHODS, as_method
    from gramian.coding.overlap import Overlap
    from gramian.coding.parallel import Parallel
    from gramian.coding.planes import GroupPlanes, group_planes
    from gramian.coding.prior import (
        PRIORS,
        Energy,
        GroupLaplace,
        LaplacianScaleMixture,
        Prior,
        as_prior,
        energy,
        group_norms,
        group_shrink,
        reconstruct,
    )
    from gramian.coding.storage import Dictionary, load_dictionary, save_dictionary
    from gramian.coding.synthesis import Convolution, Dense, Synthesis, as_synthesis

__all__ = [
    "METHODS",
    "PRIORS",
    "Control",
    "Convolution",
    "Dense",
    "Dictionary",
    "EncodedPicture",
    "Energy",
    "GaborAgreement",
    "GaborFit",
    "GaborSpread",
    "GroupLaplace",
    "GroupPlanes",
    "GroupState",
    "Inference",
    "InferenceMethod",
    "LaplacianScaleMixture",
    "Learner",
    "LearningStep",
    "Overlap",
    "Parallel",
    "PhaseResponse",
    "Prior",
    "SubspaceSparseCoding",
    "Synthesis",
    "Trace",
    "as_method",
    "as_prior",
    "as_synthesis",
    "cosine_decay",
    "debias",
    "decode_picture",
    "duality_gap",
    "encode_picture",
    "energy",
    "fista",
    "fit_gabor",
    "gratings",
    "group_agreement",
    "group_norms",
    "group_planes",
    "group_shrink",
    "group_state",
    "initial_dictionary",
    "lca",
    "learning_step",
    "load_codes",
    "load_dictionary",
    "phase_response",
    "random_groups",
    "reconstruct",
    "save_codes",
    "save_dictionary",
    "shift_control",
    "smallest_beta",
    "snr",
    "strongest_groups",
    "trace_lca",
    "within_group_cosines",
]
