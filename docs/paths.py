"""Draws the paths of the optimizers in docs/methods.md: `python docs/paths.py` writes docs/paths/*.svg.

Two weights, a quadratic loss with its minimum at (1, 0.25), noisy gradients, and an L1 penalty whose solution has a
zero for the second weight. Drawn are the weights of training and the structured ones, which a model is left with.
"""

from pathlib import Path

import keras
import matplotlib
import numpy as np

import keras_rmda as kr

FOLDER = Path(__file__).parent / "paths"
MINIMUM = np.array([1.0, 0.25])
CURVATURE = np.array([[1.0, 0.4], [0.4, 1.0]])
START, SPARSE_START = (0.4, 0.9), (0.0, 0.0)
RUNS = {
    "rmda": (kr.RMDA(0.1, momentum=0.1, regularizer=kr.L1(0.3)), START),
    "ramda": (kr.RAMDA(0.1, momentum=0.1, regularizer=kr.L1(0.3)), START),
    "prox_sgd": (kr.ProxSGD(0.1, momentum=1.0, regularizer=kr.L1(0.3)), START),
    "prox_adamw": (kr.ProxAdamW(0.03, regularizer=kr.L1(0.3)), START),
    "linbreg": (kr.LinBreg(0.05, regularizer=kr.L1(1.0)), SPARSE_START),
    "adabreg": (kr.AdaBreg(0.03, regularizer=kr.L1(1.0)), SPARSE_START),
    "dessilbi": (kr.DessiLBI(0.05, mu=5.0, momentum=0.0, regularizer=kr.L1(0.5)), START),
}
STEPS, NOISE = 150, 0.4


def path_of(optimizer: keras.optimizers.Optimizer, start: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of training and the structured ones, of shape (steps + 1, 2)."""
    random, weights = np.random.default_rng(0), keras.Variable(np.reshape(start, (2, 1)), name="kernel")
    optimizer.build([weights])
    trained, structured = [np.array(start)], [np.array(start)]
    for _ in range(STEPS):
        gradient = CURVATURE @ (trained[-1] - MINIMUM) + NOISE * random.normal(size=2)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.reshape(2, 1), "float32")], [weights])
        trained.append(keras.ops.convert_to_numpy(weights).reshape(2))
        structured.append(keras.ops.convert_to_numpy(optimizer.structured_value(weights)).reshape(2))
    return np.stack(trained), np.stack(structured)


def draw(name: str, trained: np.ndarray, structured: np.ndarray) -> None:
    """Write one picture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.4, 3.2), layout="constrained")
    grid = np.stack(np.meshgrid(np.linspace(-0.3, 1.5, 40), np.linspace(-0.3, 1.1, 40), indexing="ij"), -1) - MINIMUM
    loss = 0.5 * np.einsum("abi,ij,abj->ab", grid, CURVATURE, grid)
    axes.contour(grid[:, 0, 0] + 1, grid[0, :, 1] + 0.25, loss.T, levels=8, colors="#cccccc", linewidths=0.7)
    axes.axhline(0, color="#888888", linewidth=0.7)
    axes.axvline(0, color="#888888", linewidth=0.7)
    axes.plot(*trained.T, color="#9aa7d4", linewidth=1, label="weights of training")
    axes.plot(*structured.T, ".", color="#c2410c", markersize=3, label="structured weights")
    axes.plot(*structured[-1], "o", color="#c2410c", markersize=7)
    axes.plot(*MINIMUM, "+", color="#333333", markersize=9, label="minimum of the loss")
    axes.set(xlabel="first weight", ylabel="second weight", xlim=(-0.3, 1.5), ylim=(-0.3, 1.1))
    axes.legend(fontsize="x-small", loc="upper right")
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "keras_rmda"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    FOLDER.mkdir(exist_ok=True)
    for name, (optimizer, start) in RUNS.items():
        draw(name, *path_of(optimizer, start))
