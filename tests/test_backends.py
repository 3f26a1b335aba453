"""The same training on another backend of Keras: the same weights, stripped the same way."""

import json
import os
import subprocess
import sys

import numpy as np
import processes

SCRIPT = """
import json, sys
import keras, numpy as np
import keras_rmda as kr

random = np.random.default_rng(0)
x = random.normal(size=(64, 8, 8, 2)).astype("float32")
layers = [keras.Input((8, 8, 2)), keras.layers.Conv2D(6, 3, use_bias=False), keras.layers.BatchNormalization()]
layers += [keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)]
model = keras.Sequential(layers)
model.set_weights([random.normal(scale=0.2, size=w.shape) + ("variance" in w.path) for w in model.weights])
model.compile(kr.RMDA(0.05, 0.3, kr.GroupLasso(0.3)), "mse")
callbacks = [kr.callbacks.SparsityMonitor(), kr.callbacks.StagewiseSchedule([2, 4])]
history = model.fit(x, x.mean((1, 2)), batch_size=16, epochs=6, shuffle=False, verbose=0, callbacks=callbacks).history
small = kr.strip(model)
y, z = (keras.ops.convert_to_numpy(m(x[:3])) for m in (model, small))
print(json.dumps({
    "backend": keras.backend.backend(), "tensorflow": "tensorflow" in sys.modules,
    "weights": np.concatenate([w.ravel() for w in model.get_weights()]).tolist(), "small": small.count_params(),
    "zero_groups": history["zero_groups"], "macs": history["macs"], "difference": float(np.abs(y - z).max()),
}))
"""


def on_jax():
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=300)


def figures(result):
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_jax_equals_tensorflow():
    result = on_jax()
    assert "float64" not in result.stderr  # a second look in float64, which JAX does not have unless it is asked to
    jax, tensorflow = figures(result), figures(processes.run("-c", SCRIPT))
    assert jax["backend"] == "jax"
    np.testing.assert_allclose(jax["weights"], tensorflow["weights"], atol=1e-5)
    for key in ("zero_groups", "macs", "small"):
        assert jax[key] == tensorflow[key]
    assert 0 < jax["zero_groups"][-1] < 1
    assert max(jax["difference"], tensorflow["difference"]) < 1e-5
