"""The page of features that were learned from activations."""

from gramian.activations.page.features_page import write_features_page

__all__ = ["write_features_page"]
