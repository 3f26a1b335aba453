"""Training aids: stages of dual averaging, sparsity in the logs, the order in which groups become nonzero."""

from keras_rmda.callbacks.monitor import SparsityMonitor
from keras_rmda.callbacks.path import SolutionPath
from keras_rmda.callbacks.stages import StagewiseSchedule

__all__ = ["SolutionPath", "SparsityMonitor", "StagewiseSchedule"]
