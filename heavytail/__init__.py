"""heavytail: stable laws, noise for any torch optimizer, the mean-field limit, and pruning."""

from heavytail.compression.bound import compression_bound, quantize
from heavytail.compression.compaction import compact
from heavytail.compression.function import FunctionReport, function_error, refit
from heavytail.compression.prediction import Prediction, plan_scale, predict_pruning
from heavytail.compression.pruning import (
    LayerReport,
    PruneReport,
    column_norms,
    kept_columns,
    prune,
    relative_error,
)
from heavytail.compression.width import (
    Certificate,
    ColumnLaw,
    PruningErrorLaw,
    certificate,
    pruning_error_law,
    required_width,
)
from heavytail.laws.distribution import Stable
from heavytail.laws.draws import positive_stable, stable, symmetric_stable, tail_constant
from heavytail.laws.tails import HillCurve, TailEstimate, hill, hill_curve, log_moment, stable_mle
from heavytail.limit import fokker_planck
from heavytail.limit.coupling import chaos_error, euler_error, linear_gap_scale
from heavytail.limit.particles import Trajectory, simulate
from heavytail.limit.problem import MeanField
from heavytail.limit.rates import Rates
from heavytail.noise import (
    LambdaNoise,
    StableNoise,
    hidden_weights,
    noise_tail_constant,
    noise_vectors,
)

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "ColumnLaw",
    "FunctionReport",
    "HillCurve",
    "LambdaNoise",
    "LayerReport",
    "MeanField",
    "Prediction",
    "PruneReport",
    "PruningErrorLaw",
    "Rates",
    "Stable",
    "StableNoise",
    "TailEstimate",
    "Trajectory",
    "certificate",
    "chaos_error",
    "column_norms",
    "compact",
    "compression_bound",
    "euler_error",
    "fokker_planck",
    "function_error",
    "hidden_weights",
    "hill",
    "hill_curve",
    "kept_columns",
    "linear_gap_scale",
    "log_moment",
    "noise_tail_constant",
    "noise_vectors",
    "plan_scale",
    "positive_stable",
    "predict_pruning",
    "prune",
    "pruning_error_law",
    "quantize",
    "refit",
    "relative_error",
    "required_width",
    "simulate",
    "stable",
    "stable_mle",
    "symmetric_stable",
    "tail_constant",
]
