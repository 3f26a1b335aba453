"""The converter: find the channels that cannot matter and cut them out, exactly."""

from keras_rmda.pruning.lifting import lift
from keras_rmda.pruning.report import Report, analyze
from keras_rmda.pruning.shrinking import shrink
from keras_rmda.pruning.strip import copied, strip

__all__ = ["Report", "analyze", "copied", "lift", "shrink", "strip"]
