"""Dictionary learning, step by step or by an estimator with the interface of scikit-learn."""

from gramian.coding.learning.dictionary import cosine_decay, initial_dictionary
from gramian.coding.learning.estimator import SubspaceSparseCoding
from gramian.coding.learning.learner import Learner, LearningStep
from gramian.coding.learning.options import LearningOptions

__all__ = [
    "Learner",
    "LearningOptions",
    "LearningStep",
    "SubspaceSparseCoding",
    "cosine_decay",
    "initial_dictionary",
]
