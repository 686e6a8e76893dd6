"""Shuffled samples from activations, and their preparation."""
