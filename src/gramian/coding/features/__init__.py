"""Block-sparse features: an autoencoder of few active groups with orthonormal frames, as a module and an estimator."""

from gramian.coding.features.audit import FeatureAudit, audit_codes
from gramian.coding.features.calibration import calibrate_
from gramian.coding.features.estimator import BlockFeatures
from gramian.coding.features.module import BlockSparseAutoencoder, FeatureOutput
from gramian.coding.features.options import FeatureOptions
from gramian.coding.features.revival import revive_
from gramian.coding.features.training import FeatureStep, FeatureTraining

__all__ = [
    "BlockFeatures",
    "BlockSparseAutoencoder",
    "FeatureAudit",
    "FeatureOptions",
    "FeatureOutput",
    "FeatureStep",
    "FeatureTraining",
    "audit_codes",
    "calibrate_",
    "revive_",
]
