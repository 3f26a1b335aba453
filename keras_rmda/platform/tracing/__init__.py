"""What code of layers and models computes, as graphs."""

from keras_rmda.platform.tracing.code import LOST_LOSSES, traced, traced_model
from keras_rmda.platform.tracing.leaves import (
    AddsLosses,
    AsOneSample,
    Exchanged,
    Filled,
    ForEachSample,
    Numbers,
    OverSamples,
    PositionsLike,
    Regrouped,
    SamplesAsSteps,
    StepsAsSamples,
    UpdatesMetric,
    Weight,
    WithoutSamples,
)
from keras_rmda.platform.tracing.noise import AtTraining, Drawn, DroppedOut
from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.sizes import MOST_THAT_DIFFER, SIZES_OF_MODELS, Sizes, ways_to_differ
from keras_rmda.platform.tracing.weights import dtype_for

__all__ = [
    "LOST_LOSSES",
    "MOST_THAT_DIFFER",
    "SIZES_OF_MODELS",
    "AddsLosses",
    "AsOneSample",
    "AtTraining",
    "Drawn",
    "DroppedOut",
    "Exchanged",
    "Filled",
    "ForEachSample",
    "Numbers",
    "OverSamples",
    "PositionsLike",
    "Regrouped",
    "SamplesAsSteps",
    "Sizes",
    "StepsAsSamples",
    "Untraceable",
    "UpdatesMetric",
    "Weight",
    "WithoutSamples",
    "dtype_for",
    "traced",
    "traced_model",
    "ways_to_differ",
]
