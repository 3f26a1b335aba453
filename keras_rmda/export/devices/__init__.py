"""What a model costs on a device: bytes of its file, memory, time, as functions of the widths of its layers."""

from keras_rmda.export.devices.profile import DeviceProfile

__all__ = ["DeviceProfile"]
