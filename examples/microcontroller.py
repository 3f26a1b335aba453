"""An int8 network for digits in less than 64 KB, as a C array for a microcontroller.

    python examples/microcontroller.py [FOLDER]

Compresses a convolutional network to a quarter of its multiply-accumulates, goes on with the rounding of int8 in the
loop, and writes `digits.tflite` and `digits.h`. Where the package tflite-micro is installed, all test
images go through the interpreter of TensorFlow Lite for Microcontrollers, else through LiteRT.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

import keras_rmda as kr
from keras_rmda.datasets import digits

LIMIT = 64 * 1024


def network():
    """Return an untrained network for images of 16 x 16 pixels."""
    layers = [keras.Input((16, 16, 1), name="image")]
    for filters in (16, 32, 64):
        layers += [
            keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)], name="digits")


def header(content, file, scale, zero_point):
    """Return a C header with the model's bytes and what the program around it has to know."""
    rows = [", ".join(f"0x{byte:02x}" for byte in content[k : k + 16]) for k in range(0, len(content), 16)]
    names = ", ".join(sorted(file.operators))
    return "\n".join(
        [
            "// An int8 network for digits: 16 x 16 grey levels in, 10 scores out.",
            f"// Operators for the resolver: {names}.",
            "// A pixel p in [0, 1] goes in as round(p / kInputScale) + kInputZeroPoint.",
            "#pragma once",
            "#include <cstdint>",
            f"constexpr float kInputScale = {scale!r}f;",
            f"constexpr int kInputZeroPoint = {zero_point};",
            f"constexpr int kTensorArenaBytes = {-(-(file.arena_bytes + 1024) // 1024) * 1024};",
            f"constexpr unsigned kModelBytes = {len(content)};",
            "alignas(16) constexpr std::uint8_t kModel[] = {",
            *(f"    {row}," for row in rows),
            "};",
            "",
        ]
    )


def interpreter(content):
    """Return a function from int8 images to int8 scores, and the name of what runs the file."""
    try:
        from tflite_micro.python.tflite_micro import runtime

        runner = runtime.Interpreter.from_bytes(content)
        invoke, name = runner.invoke, "TensorFlow Lite for Microcontrollers"
        set_input, get_output = lambda x: runner.set_input(x, 0), lambda: runner.get_output(0)
    except ImportError:
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_content=content)
        runner.allocate_tensors()
        invoke, name = runner.invoke, "LiteRT"
        [into], [out] = runner.get_input_details(), runner.get_output_details()
        set_input, get_output = lambda x: runner.set_tensor(into["index"], x), lambda: runner.get_tensor(out["index"])

    def run(image):
        set_input(image)
        invoke()
        return get_output()

    return run, name


def main(folder, epochs):
    """Train, export, and write both files."""
    import tf_keras
    from ai_edge_litert.interpreter import Interpreter

    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = digits.load(size=16)
    result = kr.compress(network(), x, y, target=0.25, epochs=epochs, verbose=0)
    small = result.model
    print(f"{result.report.macs:,} multiply-accumulates become {result.report.macs_after:,}")

    aware = kr.quantization_aware(small, x[:200])
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(tf_keras.optimizers.Adam(1e-4), loss)
    aware.fit(x, y, 32, max(1, epochs // 5), verbose=0)

    file = kr.export_tflite(aware, folder / "digits.tflite", "int8", x[:200], int8_io=True, micro=True)
    assert file.bytes < LIMIT, file.bytes
    content = file.path.read_bytes()
    scale, zero_point = Interpreter(model_content=content).get_input_details()[0]["quantization"]
    (folder / "digits.h").write_text(header(content, file, scale, zero_point))

    run, name = interpreter(content)
    images = np.clip(np.round(x_test / scale) + zero_point, -128, 127).astype("int8")
    right = np.mean([np.argmax(run(image[None])) == label for image, label in zip(images, y_test)])
    print(f"{file.bytes:,} bytes, tensor arena about {file.arena_bytes:,} bytes")
    print(f"accuracy {np.mean(small.predict(x_test, verbose=0).argmax(1) == y_test):.2%} in float32")
    print(f"accuracy {right:.2%} in int8, run by {name}")
    print(f"wrote {folder / 'digits.tflite'} and {folder / 'digits.h'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    main(options.folder, options.epochs)
