"""One-pass and iterative encoders, selections of active groups, and sparse codes."""

from gramian.coding.encoders.codes import SparseCodes
from gramian.coding.encoders.discoveries import Discoveries
from gramian.coding.encoders.iterative import IterativeEncoder
from gramian.coding.encoders.one_pass import LinearEncoder, OnePass, PreCodes, TiedEncoder
from gramian.coding.encoders.products import weighted_sum
from gramian.coding.encoders.selection import BatchTopK, Candidates, Selection, SoftThreshold, Threshold, TopK

__all__ = [
    "BatchTopK",
    "Candidates",
    "Discoveries",
    "IterativeEncoder",
    "LinearEncoder",
    "OnePass",
    "PreCodes",
    "Selection",
    "SoftThreshold",
    "SparseCodes",
    "Threshold",
    "TiedEncoder",
    "TopK",
    "weighted_sum",
]
