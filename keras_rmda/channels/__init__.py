"""What layers do to channels: the layer table and the rules that its rows are made of."""

from keras_rmda.channels.gates import Multiplies, Vanishes
from keras_rmda.channels.linear import Linear, Writes
from keras_rmda.channels.merges import Merges
from keras_rmda.channels.moves import Moves
from keras_rmda.channels.rule import Rule
from keras_rmda.channels.simple import Carries, Mixes
from keras_rmda.channels.table import register_rule

__all__ = ["Carries", "Linear", "Merges", "Mixes", "Moves", "Multiplies", "Rule", "Vanishes", "Writes", "register_rule"]
