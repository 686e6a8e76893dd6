"""Callbacks for libraries that run the training loop; each module imports its library, gramian itself needs none.

`gramian.integrations.lightning` has a callback for Lightning, `gramian.integrations.transformers` one for the Trainer
of Hugging Face. Accelerate and Fabric need none: `gramian.attach` accepts their optimisers.
"""

__all__ = []
