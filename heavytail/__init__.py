"""heavytail: stable laws, heavy-tailed noise for any torch optimizer, and pruning."""

from heavytail.compress import (
    LayerReport,
    PruneReport,
    column_norms,
    kept_columns,
    prune,
    relative_error,
)
from heavytail.noise import LambdaNoise, StableNoise, hidden_weights, noise_vectors
from heavytail.stable import Stable, positive_stable, stable, symmetric_stable, tail_constant
from heavytail.tails import (
    HillCurve,
    TailEstimate,
    hill,
    hill_curve,
    log_moment,
    stable_mle,
)
from heavytail.width import Prediction, plan_scale, predict_pruning

__version__ = "0.1.0"

__all__ = [
    "HillCurve",
    "LambdaNoise",
    "LayerReport",
    "Prediction",
    "PruneReport",
    "Stable",
    "StableNoise",
    "TailEstimate",
    "column_norms",
    "hidden_weights",
    "hill",
    "hill_curve",
    "kept_columns",
    "log_moment",
    "noise_vectors",
    "plan_scale",
    "positive_stable",
    "predict_pruning",
    "prune",
    "relative_error",
    "stable",
    "stable_mle",
    "symmetric_stable",
    "tail_constant",
]
