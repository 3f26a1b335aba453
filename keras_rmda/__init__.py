"""Train Keras 3 models into exact structured sparsity, cut the zeros out, ship a small TFLite file."""

from keras_rmda import _startup  # noqa: F401  isort: skip
from keras_rmda import callbacks
from keras_rmda.channels import Rule, register_rule
from keras_rmda.export import benchmark_tflite, export_tflite
from keras_rmda.optimizers import RMDA
from keras_rmda.pruning import Report, analyze, strip
from keras_rmda.regularizers import L1, GroupLasso

__version__ = "0.1.0"

__all__ = [
    "L1",
    "RMDA",
    "GroupLasso",
    "Report",
    "Rule",
    "analyze",
    "benchmark_tflite",
    "callbacks",
    "export_tflite",
    "register_rule",
    "strip",
]
