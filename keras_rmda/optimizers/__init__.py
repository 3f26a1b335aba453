"""Optimizers that train networks into exact structured sparsity."""

from keras_rmda.optimizers.adabreg import AdaBreg
from keras_rmda.optimizers.dessilbi import DessiLBI
from keras_rmda.optimizers.linbreg import LinBreg
from keras_rmda.optimizers.prox_adamw import ProxAdamW
from keras_rmda.optimizers.prox_sgd import ProxSGD
from keras_rmda.optimizers.ramda import RAMDA
from keras_rmda.optimizers.rmda import RMDA

__all__ = ["RAMDA", "RMDA", "AdaBreg", "DessiLBI", "LinBreg", "ProxAdamW", "ProxSGD"]
