"""Run networks over texts and pictures, and store the outputs of their modules."""

from gramian.activations.recording.batches import Batch
from gramian.activations.recording.capture import capture

__all__ = ["Batch", "capture"]
