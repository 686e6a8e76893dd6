"""An update after every step of an optimiser: which parameters, with which strength, rule and penalty."""

__all__ = []
