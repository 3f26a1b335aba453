"""Training aids: stages, targets, backups, the end of gates, sparsity and cost in the logs, the order of groups."""

from keras_rmda.callbacks.backup import BackupAndRestore
from keras_rmda.callbacks.cost import TrainingCost
from keras_rmda.callbacks.gates import FreezeGates
from keras_rmda.callbacks.laws import Feedback, Increments, StrengthLaw
from keras_rmda.callbacks.monitor import SparsityMonitor
from keras_rmda.callbacks.multilevel import Multilevel
from keras_rmda.callbacks.path import SolutionPath
from keras_rmda.callbacks.session import session  # noqa: F401  wraps `fit`
from keras_rmda.callbacks.stages import StagewiseSchedule
from keras_rmda.callbacks.structured import StructuredWeights
from keras_rmda.callbacks.target import TargetSparsity

__all__ = [
    "BackupAndRestore",
    "Feedback",
    "FreezeGates",
    "Increments",
    "Multilevel",
    "SolutionPath",
    "SparsityMonitor",
    "StagewiseSchedule",
    "StrengthLaw",
    "StructuredWeights",
    "TargetSparsity",
    "TrainingCost",
]
