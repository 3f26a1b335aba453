"""The authors' trajectories (tests/data/trajectories.npz) in Keras layout."""

import pathlib

import keras
import numpy as np

DATA = np.load(pathlib.Path(__file__).parent / "data" / "trajectories.npz")


def to_keras(array: np.ndarray) -> np.ndarray:
    """PyTorch (out, in, h, w) or (out, in) -> Keras (h, w, in, out) or (in, out), steps first if there are any."""
    order = {2: (1, 0), 4: (2, 3, 1, 0), 3: (0, 2, 1), 5: (0, 3, 4, 2, 1)}[array.ndim]
    return np.transpose(array, order)


class Problem:
    """Gradient H * (p - target) + noise[t], as in the reference runs."""

    def __init__(self, name: str, dtype: str):
        self.start, self.h, self.target, self.noise, self.trajectory = (
            to_keras(DATA[f"{name}/{key}"]).astype(dtype) for key in ("p0", "H", "target", "noise", "traj")
        )
        self.gamma = to_keras(DATA[f"{name}/gamma"]) if f"{name}/gamma" in DATA.files else None
        self.variable = keras.Variable(self.start, dtype=dtype, name="kernel")

    def gradients_at(self, values: list, noise) -> list:
        h, target = (keras.ops.convert_to_tensor(x) for x in (self.h, self.target))
        return [h * (values[0] - target) + noise]
