"""Training aids: stages, targets, the end of gates, sparsity in the logs, the order in which groups become nonzero."""

from keras_rmda.callbacks.gates import FreezeGates
from keras_rmda.callbacks.monitor import SparsityMonitor
from keras_rmda.callbacks.path import SolutionPath
from keras_rmda.callbacks.stages import StagewiseSchedule
from keras_rmda.callbacks.target import TargetSparsity

__all__ = ["FreezeGates", "SolutionPath", "SparsityMonitor", "StagewiseSchedule", "TargetSparsity"]
