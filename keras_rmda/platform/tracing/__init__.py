"""What code of layers and models computes, as graphs."""

from keras_rmda.platform.tracing.code import traced, traced_model
from keras_rmda.platform.tracing.leaves import (
    AsOneSample,
    Exchanged,
    ForEachSample,
    Numbers,
    PositionsLike,
    Regrouped,
    SamplesAsSteps,
    StepsAsSamples,
    Weight,
    WithoutSamples,
)
from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.weights import dtype_for

__all__ = [
    "AsOneSample",
    "Exchanged",
    "ForEachSample",
    "Numbers",
    "PositionsLike",
    "Regrouped",
    "SamplesAsSteps",
    "StepsAsSamples",
    "Untraceable",
    "Weight",
    "WithoutSamples",
    "dtype_for",
    "traced",
    "traced_model",
]
