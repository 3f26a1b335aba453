"""Models as TensorFlow Lite files."""

from keras_rmda.export.benchmark import benchmark_tflite
from keras_rmda.export.quantization import quantization_aware
from keras_rmda.export.tflite import export_tflite

__all__ = ["benchmark_tflite", "export_tflite", "quantization_aware"]
