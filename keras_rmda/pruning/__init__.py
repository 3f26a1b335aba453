"""The converter: find the channels that cannot matter and cut them out, exactly."""

from keras_rmda.pruning.report import Report, analyze
from keras_rmda.pruning.strip import strip

__all__ = ["Report", "analyze", "strip"]
