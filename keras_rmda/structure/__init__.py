"""The converter: find the channels that cannot matter and cut them out, exactly."""

from keras_rmda.structure.lifting import lift
from keras_rmda.structure.report import Report, analyze
from keras_rmda.structure.shrinking import shrink
from keras_rmda.structure.strip import copied, strip

__all__ = ["Report", "analyze", "copied", "lift", "shrink", "strip"]
