"""Train Keras 3 models into exact structured sparsity, cut the zeros out, ship a small TFLite file."""

import sys

from keras_rmda.platform import startup  # noqa: F401  isort: skip
from keras_rmda import callbacks, channels, distribute, gates
from keras_rmda.channels import register_rule
from keras_rmda.compression import Compressed, compress
from keras_rmda.export import benchmark_tflite, export_tflite, quantization_aware
from keras_rmda.export.devices import DeviceProfile, EnergyTable
from keras_rmda.gates import layers
from keras_rmda.optimizers import RAMDA, RMDA, AdaBreg, DessiLBI, LinBreg, ProxAdamW, ProxSGD
from keras_rmda.platform import versions
from keras_rmda.platform.checks import SparsityWarning
from keras_rmda.regularizers import L1, ElasticNet, GroupLasso, NonNegativeL1, NuclearNorm, SparseGroupLasso
from keras_rmda.structure import Report, analyze, lift, shrink, strip
from keras_rmda.structure.coupling import coupled_groups
from keras_rmda.structure.factorize import factorize
from keras_rmda.structure.sparsify import SparseInitializer, sparsify
from keras_rmda.structure.verification import VerificationError

__version__ = "0.2.0"

versions.warn_if_untested()
sys.modules[f"{__name__}.layers"] = layers  # so that `from keras_rmda.layers import L0Gate` works, as with Keras

__all__ = [
    "L1",
    "RAMDA",
    "RMDA",
    "AdaBreg",
    "Compressed",
    "DessiLBI",
    "DeviceProfile",
    "ElasticNet",
    "EnergyTable",
    "GroupLasso",
    "LinBreg",
    "NonNegativeL1",
    "NuclearNorm",
    "ProxAdamW",
    "ProxSGD",
    "Report",
    "SparseGroupLasso",
    "SparseInitializer",
    "SparsityWarning",
    "VerificationError",
    "analyze",
    "benchmark_tflite",
    "callbacks",
    "channels",
    "compress",
    "coupled_groups",
    "distribute",
    "export_tflite",
    "factorize",
    "gates",
    "layers",
    "lift",
    "quantization_aware",
    "register_rule",
    "shrink",
    "sparsify",
    "strip",
]
