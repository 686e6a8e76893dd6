"""Run networks over texts and pictures, and keep what their modules return."""

from gramian.activations.recording.batches import Batch
from gramian.activations.recording.capture import capture

__all__ = ["Batch", "capture"]
