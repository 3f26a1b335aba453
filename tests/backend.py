"""What differs between the backends of Keras in a test: compiled steps, and gradients."""

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "xla"), "torch": ("eager",)}[BACKEND]
"""The ways in which a step can run."""

only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="needs TensorFlow")


def hidden(x):
    """Return the argument, from the rest of the code that no symbolic tensor gets through."""
    if isinstance(x, keras.KerasTensor):
        raise NotImplementedError("this code is for numbers")
    return x


def stepper(optimizer, variables, gradients_at, mode):
    """Return a function of data that makes one step of `optimizer` with `gradients_at(values, data)`."""

    def step(data):
        optimizer.apply(gradients_at([keras.ops.convert_to_tensor(v) for v in variables], data), variables)

    if mode == "eager":
        return step
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(step, jit_compile=mode == "xla")
    import jax

    @jax.jit
    def stateless(values, state, data):
        return optimizer.stateless_apply(state, gradients_at(values, data), values)

    def jitted(data):
        values, state = stateless([v.value for v in variables], [v.value for v in optimizer.variables], data)
        for variable, value in zip([*variables, *optimizer.variables], [*values, *state]):
            variable.assign(value)

    return jitted


def number(x):
    """Return a tensor or variable as a NumPy array."""
    return np.array(keras.ops.convert_to_numpy(x))


def gradient(function, x):
    """Return the derivative of a scalar function of one tensor at a NumPy array."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.Variable(x)
        with tf.GradientTape() as tape:
            value = function(x)
        return number(tape.gradient(value, x))
    if BACKEND == "jax":
        import jax

        return number(jax.grad(function)(x))
    import torch

    x = torch.tensor(x, requires_grad=True)
    function(x).backward()
    return number(x.grad)


def has_all_bits():
    """Return whether a GPU would multiply float32 with all of its bits now."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return not tf.config.experimental.tensor_float_32_execution_enabled()
    if BACKEND == "jax":
        import jax

        return jax.config.jax_default_matmul_precision == "highest"
    import torch

    return not torch.backends.cudnn.allow_tf32
