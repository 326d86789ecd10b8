"""heavytail: stable laws, heavy-tailed noise for any torch optimizer, and pruning."""

from heavytail.compress import (
    LayerReport,
    PruneReport,
    column_norms,
    kept_columns,
    prune,
    relative_error,
)
from heavytail.noise import StableNoise, hidden_weights, noise_vectors
from heavytail.stable import positive_stable, stable, symmetric_stable, tail_constant

__version__ = "0.1.0"

__all__ = [
    "LayerReport",
    "PruneReport",
    "StableNoise",
    "column_norms",
    "hidden_weights",
    "kept_columns",
    "noise_vectors",
    "positive_stable",
    "prune",
    "relative_error",
    "stable",
    "symmetric_stable",
    "tail_constant",
]
