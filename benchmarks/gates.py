"""L0 gates, alone and dependent on each other (Dep-L0), on Fashion-MNIST.

    TFDS_DATA_DIR=... python benchmarks/gates.py --network lenet5 | resnet8

Images, epochs and networks are those of `removable.py`, whose tables hold what to compare with: dense networks, and
RMDA and ProxSGD with coupled groups. Weights train by SGD with momentum as the dense networks do, gates by Adam; after
three quarters of the epochs the gates are frozen. All accuracies are of the 10,000 test images, of the stripped model.

- `l0`: every gate has a log alpha of its own. `dep-forward`, `dep-backward`: a generator computes them.
- `inside`: gates on channels that one layer writes; `everywhere`: also on the stream of the residual network.
- `inputs`: `inside`, and one on each of the 800 inputs of LeNet's first dense layer, as the authors have it. These are
  pixels of channels: a closed one leaves zeros in the kernel, and a channel goes when all of its pixels are closed.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from experiment import Experiment, command_line, decayed, mean_sd, percent, print_table, steps_per_epoch
from removable import BATCH_SIZE, LOSS, NETWORKS, RATE, SLOWER, measured, schedule_epochs, with_fewer_images

import keras_rmda as kr

KINDS = {"l0": ("l0", "forward"), "dep-forward": ("dep_l0", "forward"), "dep-backward": ("dep_l0", "backward")}
RATES = {"l0": 0.01, "dep_l0": 0.001}
"""Adam's learning rates. All weights of a generator move each of its gates, which so need smaller steps."""
FROZEN = 0.75
STRENGTHS = {"resnet8": (3e-5, 1e-4, 3e-4), "lenet5": (3e-6, 1e-5, 3e-5)}
WHERE = {"resnet8": ("inside", "everywhere"), "lenet5": ("inside", "inputs")}


def compiled(experiment: Experiment, kind: str, seed: int, strength: float, where: str) -> keras.Model:
    """Return an untrained network with gates and its optimizers."""
    network = experiment.arguments.network
    kind, direction = KINDS[kind]
    model = NETWORKS[network]()
    if where == "inputs":
        model, where = with_gated_inputs(model, strength, seed), "inside"
    model = kr.gates.insert(model, kind, strength, direction, where=where, seed=seed)
    steps = steps_per_epoch(experiment.data, BATCH_SIZE)
    rate = decayed(SLOWER.get(network, 1.0) * RATE["sgd"], schedule_epochs(experiment), steps)
    optimizer = kr.gates.optimizer(keras.optimizers.SGD(rate, momentum=0.9), keras.optimizers.Adam(RATES[kind]))
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    return model


def with_gated_inputs(model: keras.Model, strength: float, seed: int) -> keras.Model:
    """Return a copy with independent gates on what the first dense layer reads."""
    gate = kr.layers.L0Gate(strength=strength, cost=model.layers[-2].units, seed=100 + seed)

    def call(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
        outputs = layer(*arguments, **keywords)
        return gate(outputs) if isinstance(layer, keras.layers.Flatten) else outputs

    return keras.models.clone_model(model, call_function=call)


def architecture(experiment: Experiment, model: keras.Model) -> dict[str, Any]:
    """Return the figures of `removable.py`, and the widths of all layers with kernels but the last.

    For LeNet they are those of its authors: filters, filters, inputs of the first dense layer that it uses, units.
    """
    kernels = [layer.kernel for layer in kr.strip(model).layers if hasattr(layer, "kernel")]
    widths = [kernel.shape[-1] for kernel in kernels[:-1]]
    if model.name == "lenet5":
        widths.insert(2, int(np.any(keras.ops.convert_to_numpy(kernels[2]), axis=1).sum()))
    return {**measured(experiment, model), "widths": "-".join(map(str, widths))}


def train(experiment: Experiment, kind: str, seed: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return one run."""
    arguments = experiment.arguments
    settings = {"network": arguments.network, **chosen, "epochs": arguments.epochs, "batch_size": BATCH_SIZE}
    settings |= {"images": len(experiment.data.x), "gate_rate": RATES[KINDS[kind][0]], "frozen": FROZEN}
    callbacks = [kr.callbacks.FreezeGates(int(FROZEN * arguments.epochs)), kr.callbacks.SparsityMonitor()]
    make = lambda: compiled(experiment, kind, seed, **chosen)  # noqa: E731
    return experiment.train(kind, seed, settings, make, lambda model: architecture(experiment, model), callbacks)


def row(runs: list[dict[str, Any]]) -> list[str]:
    """Return the figures of a table, over seeds."""
    final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
    share = lambda key: percent([a / b for a, b in zip(final[f"{key}_after"], final[key])], 1)  # noqa: E731
    return [
        percent(final["test_accuracy"]),
        share("macs"),
        share("parameters"),
        mean_sd([100 * each for each in final["latency_of_whole"]], 0),
        f"{sum(run['seconds'] for run in runs) / len(runs):.0f}",
        ", ".join(final["widths"]),
    ]


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], sorted(KINDS), epochs=12)
    parser.add_argument("--network", choices=sorted(STRENGTHS), default="resnet8")
    parser.add_argument("--strengths", type=float, nargs="+", help="others than the table's")
    experiment = with_fewer_images(Experiment.start(__file__, parser))
    network, rows = experiment.arguments.network, []
    for where in WHERE[network]:
        for kind in experiment.selected(["l0"] if where == "inputs" else KINDS):
            for strength in experiment.arguments.strengths or STRENGTHS[network]:
                chosen = {"strength": strength, "where": where}
                runs = [train(experiment, kind, seed, chosen) for seed in experiment.arguments.seeds]
                rows.append([kind, where, f"{strength:g}", *row(runs)])
    header = ["gates", "where", "strength", "test accuracy %", "MACs left %", "parameters left %", "latency %"]
    title = f"{network}, {experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}"
    print_table(title, [*header, "seconds", "widths"], rows)
