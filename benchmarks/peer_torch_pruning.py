"""ResNet-20 on CIFAR-10 by Torch-Pruning: the peer of `resnet20.py`, with its images, epochs, rates and table.

    pip install torch torch-pruning
    KERAS_BACKEND=torch python benchmarks/peer_torch_pruning.py --data cifar10.npz [--targets .25]

`GroupNormPruner` with the published regularization of 5e-4, global over all layers, removes groups until the target is
reached, after 60 % of the epochs; the rest of the epochs tunes what is left. Of its pruners this one was the best on
the networks of `removable.py`. Keras has no part in it but for the images.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from cifar10_images import Images
from resnet20 import BLOCKS, FILTERS, STAGES, command_line, run_all
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REGULARIZATION, MOST, STEPS = 5e-4, 0.9, 400
"""Of the group lasso; the share of a layer that may go; in how many steps all would go."""


class Block(nn.Module):
    """Two convolutions, and a shortcut that is a 1 x 1 convolution where the width changes."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.first, self.second = convolution(before, width, 3, stride), convolution(width, width, 3)
        self.shortcut = convolution(before, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.shortcut(x) + self.second(functional.relu(self.first(x))))


def convolution(before: int, width: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with the start of Keras, and batch normalization with its numbers."""
    layer = nn.Conv2d(before, width, size, stride, padding=size // 2, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(layer, nn.BatchNorm2d(width, eps=1e-3, momentum=0.1))


def network() -> nn.Sequential:
    """Return ResNet-20."""
    layers: list[nn.Module] = [convolution(3, FILTERS[0], 3), nn.ReLU()]
    before = FILTERS[0]
    for stage, width in enumerate(FILTERS):
        for block in range(BLOCKS):
            layers.append(Block(before, width, 2 if stage and not block else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def tensor(values: Any) -> torch.Tensor:
    """Return what Keras or NumPy holds as a tensor on the device, images with channels first."""
    if not isinstance(values, torch.Tensor):
        values = torch.from_numpy(np.array(values))
    return (values.permute(0, 3, 1, 2) if values.ndim == 4 else values.long()).to(DEVICE)


def accuracy(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of right classes."""
    model.eval()
    with torch.no_grad():
        batches = [tensor(x[k : k + 500].astype("float32") / 255) for k in range(0, len(x), 500)]
        classes = torch.cat([model(batch).argmax(1) for batch in batches])
    return float((classes == tensor(y)).float().mean())


def run(method: str, target: float | None, seed: int, epochs: int, data: list[np.ndarray]) -> dict[str, Any]:
    """Return the figures of one training."""
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    images, model, begun = Images(x, y, seed), network().to(DEVICE), time.perf_counter()
    example = torch.zeros(1, 3, 32, 32, device=DEVICE)
    macs, parameters = tp.utils.count_ops_and_params(model, example)
    cut, last = (round(epochs * share) for share in STAGES)
    pruner = tp.pruner.GroupNormPruner(
        model,
        example,
        tp.importance.GroupMagnitudeImportance(normalizer="max"),
        reg=REGULARIZATION,
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=MOST,
        iterative_steps=STEPS,
        ignored_layers=[model[-1]],
    )
    for epoch in range(epochs):
        model.train()
        images.begin(epoch)
        if epoch == cut and target:
            for _ in range(STEPS):
                if tp.utils.count_ops_and_params(model, example)[0] <= target * macs:
                    break
                pruner.step()
        if epoch in (0, cut, last):
            rate = 0.1 * 0.1 ** ((epoch >= cut) + (epoch >= last))
            optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        is_sparse = target is not None and epoch < cut
        if is_sparse:
            pruner.update_regularizer()
        for batch in range(len(images)):
            pixels, classes = (tensor(each) for each in images[batch])
            optimizer.zero_grad()
            functional.cross_entropy(model(pixels), classes).backward()
            if is_sparse:
                pruner.regularize(model)
            optimizer.step()
    seconds = time.perf_counter() - begun
    left = tp.utils.count_ops_and_params(model, example)
    return {
        "accuracy": accuracy(model, x_test, y_test),
        "macs": left[0] / macs,
        "parameters": left[1] / parameters,
        "widths": [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)],
        "seconds": seconds,
    }


if __name__ == "__main__":
    run_all(command_line(__doc__.splitlines()[0], ["torch-dense", "torch-pruning"]).parse_args(), run)
