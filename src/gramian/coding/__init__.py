"""Subspace sparse coding: the group prior, inference, dictionary learning, and how to judge what was learned."""

from gramian.coding.dictionary import LearningStep, cosine_decay, initial_dictionary, learning_step
from gramian.coding.estimator import METHODS, SubspaceSparseCoding
from gramian.coding.evaluation import GroupState, debias, group_state, snr, strongest_groups, within_group_cosines
from gramian.coding.fista import fista
from gramian.coding.inference import Inference, InferenceMethod, duality_gap
from gramian.coding.invariance import Control, PhaseResponse, gratings, phase_response, random_groups, shift_control
from gramian.coding.lca import lca
from gramian.coding.prior import Energy, energy, group_norms, group_shrink, reconstruct
from gramian.coding.storage import Dictionary, load_dictionary, save_dictionary

__all__ = [
    "METHODS",
    "Control",
    "Dictionary",
    "Energy",
    "GroupState",
    "Inference",
    "InferenceMethod",
    "LearningStep",
    "PhaseResponse",
    "SubspaceSparseCoding",
    "cosine_decay",
    "debias",
    "duality_gap",
    "energy",
    "fista",
    "gratings",
    "group_norms",
    "group_shrink",
    "group_state",
    "initial_dictionary",
    "lca",
    "learning_step",
    "load_dictionary",
    "phase_response",
    "random_groups",
    "reconstruct",
    "save_dictionary",
    "shift_control",
    "snr",
    "strongest_groups",
    "within_group_cosines",
]
