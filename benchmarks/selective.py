"""Another quantizer on the same files: ai-edge-quantizer, which takes number formats per layer, beside the converter.

    pip install ai-edge-quantizer
    python benchmarks/deployment.py --network resnet8          # trains and writes the files, if they are not there
    python benchmarks/selective.py --network resnet8

For the whole and the stripped network of the first seed: bytes, accuracy, the largest difference from float32, and
latency in turns; then weights of 4 bits but in the layers that change the outputs most by them, which have 8.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import deployment
import keras
import numpy as np
import removable
from experiment import Experiment, command_line, print_table

import keras_rmda as kr
from keras_rmda.export import flat
from keras_rmda.export.contents import read_contents
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.export.slim import slimmed

RECIPES = {
    "weights int8": "weight_only_wi8_afp32", "dynamic int8": "dynamic_wi8_afp32", "int8": "static_wi8_ai8",
    "int16x8": "static_wi8_ai16", "weights int4": "weight_only_wi4_afp32", "dynamic int4": "dynamic_wi4c_afp32",
}  # fmt: skip
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def quantized(path: Path, recipe: list[dict[str, Any]], samples: np.ndarray) -> bytes:
    """Return the content of a float32 file, quantized by a recipe."""
    from ai_edge_quantizer import quantizer

    made = quantizer.Quantizer(str(path), recipe)
    ranges = None
    if made.need_calibration:
        [(signature, (inputs, _))] = read_contents(path).signatures.items()
        ranges = made.calibrate({signature: [{inputs[0]: samples[k : k + 1]} for k in range(len(samples))]})
    return bytes(made.quantize(ranges, enable_progress_report=False).quantized_model)


def named(path: Path) -> Path:
    """Write a file whose tensors have names, by which recipes choose layers, beside one whose tensors have none."""
    model = flat.read(path.read_bytes())
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = tensor.name or f"/{number}/"
    target = path.with_name(f"named-{path.name}")
    target.write_bytes(flat.written(model))
    return target


def for_layer(recipe: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the rule of a recipe for the layer whose output has this name."""
    return recipe[0] | {"regex": re.escape(name) + ".*"}


def compare(data: Any, part: str, float32: keras.Model, folder: Path, runs: int) -> None:
    """Print a table of formats, and one of layers left at 8 bits."""
    from ai_edge_quantizer import recipe as recipes

    samples, paths = data.x[:200], {}
    for form in (None, "dynamic", "int8", "int16x8"):
        name = f"converter {form or 'float32'}"
        paths[name] = kr.export_tflite(float32, folder / f"{part}-{form}.tflite", form, samples).path
    base = named(paths["converter float32"])
    for name, recipe in RECIPES.items():
        paths[f"ai-edge-quantizer {name}"] = folder / f"{part}-{recipe}.tflite"
        content = quantized(base, getattr(recipes, recipe)(), samples)
        paths[f"ai-edge-quantizer {name}"].write_bytes(slimmed(content))
    expected, rows = Interpreter(base).predict(data.x_test), []
    accuracy = lambda found: f"{100 * np.mean(found.argmax(-1) == data.y_test):.2f}"  # noqa: E731
    times = kr.benchmark_tflite(list(paths.values()), runs=runs)
    for (name, path), time in zip(paths.items(), times):
        found = Interpreter(path).predict(data.x_test)
        away = np.abs(found - expected).max() / np.abs(expected).max()
        rows.append([name, f"{path.stat().st_size:,}", accuracy(found), f"{away:.3f}", f"{time.median:.4f}"])
    print_table(part, ["file", "bytes", "accuracy %", "difference", "ms"], rows)

    four, eight = recipes.weight_only_wi4_afp32(), recipes.weight_only_wi8_afp32()
    contents, known = read_contents(base), Interpreter(base).predict(samples)
    names = [contents.tensors[each.outputs[0]].name for each in contents.operators if each.name in LAYERS]
    change = {
        name: np.abs(Interpreter.of(quantized(base, [for_layer(four, name)], samples)).predict(samples) - known).mean()
        for name in names
    }
    order, rows = sorted(names, key=change.get, reverse=True), []
    for count in (0, 1, 2, 4, 8, len(order) // 2, len(order)):
        content = quantized(base, [*four, *(for_layer(eight, name) for name in order[:count])], samples)
        rows.append([str(count), f"{len(slimmed(content)):,}", accuracy(Interpreter.of(content).predict(data.x_test))])
    print_table(f"{part}, weights int4 but in some layers", ["layers in int8", "bytes", "accuracy %"], rows)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], [], epochs=12)
    parser.add_argument("--network", choices=deployment.NETWORKS[:3], default="resnet8")
    parser.add_argument("--runs", type=int, default=200)
    try:
        import ai_edge_quantizer  # noqa: F401
    except ImportError:
        sys.exit("this benchmark needs `pip install ai-edge-quantizer`")
    experiment = removable.with_fewer_images(Experiment.start(__file__, parser))
    other = {"demo": deployment.digits_of_demo, "mobilenetv2": deployment.digits_in_colour}
    if experiment.arguments.network in other:
        experiment = dataclasses.replace(experiment, data=other[experiment.arguments.network]())
    folder = deployment.folder_of(argparse.Namespace(**vars(experiment.arguments)))
    if not all(path.exists() for path in deployment.models_in(folder).values()):
        sys.exit(f"run `python benchmarks/deployment.py --network {experiment.arguments.network}` first")
    for part, path in deployment.models_in(folder).items():
        compare(experiment.data, part, keras.models.load_model(path), folder, experiment.arguments.runs)
