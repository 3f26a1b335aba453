"""What a model costs on a device: bytes of its file, memory, time, energy, as functions of its widths."""

from keras_rmda.export.devices.energy import EnergyTable
from keras_rmda.export.devices.profile import DeviceProfile

__all__ = ["DeviceProfile", "EnergyTable"]
