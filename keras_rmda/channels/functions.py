"""What a function does to the numbers of a tensor, from its program: whether it changes each by itself."""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat, graphs


def names_in_text(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


UNARY = names_in_text(
    "Abs Absolute Arccos Arccosh Arcsin Arcsinh Arctan Arctanh BitwiseInvert BitwiseNot Cast Cbrt Ceil Celu Clip "
    "ConvertToTensor Copy Cos Cosh Deg2rad Elu Erf Erfc Erfinv Exp Exp2 Expm1 Fabs Floor Gelu HardShrink HardSigmoid "
    "HardSilu HardTanh Isfinite Isinf Isnan Isneginf Isposinf LeakyRelu Log Log10 Log1p Log2 LogSigmoid Mish NanToNum "
    "Negative Rad2deg ReLU "
    "Reciprocal Relu Relu6 Round Rsqrt SaturateCast Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh SoftShrink Softplus "
    "Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient Tan Tanh TanhShrink Threshold Trunc"
)
"""Operations of Keras that change each number of one tensor by itself, by the names of their classes."""

FILLS = frozenset(["ZerosLike", "OnesLike"])
COMPARISONS = names_in_text(
    "BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterEqual Isclose "
    "Less LessEqual LogicalAnd LogicalNot LogicalOr LogicalXor NotEqual Where"
)
ARITHMETIC = names_in_text(
    "Add Arctan2 Divide DivideNoNan FloorDivide Fmax Fmin Fmod Heaviside Hypot Logaddexp Logaddexp2 Maximum Minimum "
    "Mod Multiply Nextafter Power Subtract TrueDivide"
)
"""Operations of Keras that make number k of the result from the numbers k of several tensors."""

OF_KERAS = UNARY | FILLS | COMPARISONS | ARITHMETIC

OF_TENSORFLOW = names_in_text(
    "Abs Acos Acosh Add AddV2 Asin Asinh Atan Atan2 Atanh Cast Ceil ClipByValue Const Cos Cosh Div DivNoNan Elu Equal "
    "Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Identity IdentityN Inv IsFinite IsInf "
    "IsNan LeakyRelu Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan "
    "Ndtri Neg NoOp NotEqual OnesLike PartitionedCall Placeholder Pow PreventGradient RealDiv Reciprocal Relu Relu6 "
    "Rint Round Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square SquaredDifference "
    "StatefulPartitionedCall StopGradient Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy ZerosLike"
)
"""Types of TensorFlow's operations; functions that are called are looked into."""

OF_JAX = names_in_text(
    "abs acos acosh add and asin asinh atan atan2 atanh broadcast_in_dim cbrt ceil clamp convert_element_type copy cos "
    "cosh custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr closed_call core_call digamma div eq erf erf_inv erfc "
    "exp exp2 expm1 floor ge gt integer_pow is_finite jit le lgamma log log1p logistic lt max min mul ne neg not or "
    "pjit pow real rem remat remat2 checkpoint round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan "
    "tanh xor"
)
"""Primitives of JAX; those that call others are looked into."""

ELEMENTWISE_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
"""Layers that change each number by itself."""

WHOLE = frozenset(["softmax", "log_softmax", "sparsemax"])
"""Activations of Keras that mix all channels, however many these are."""


def is_elementwise(function: Any) -> bool:
    """Return whether a function, an activation layer or a `Lambda` changes each number of a tensor by itself.

    Its program says so: what it makes of a symbolic tensor, or of one of TensorFlow's or JAX's, are operations of that
    kind only. And so do numbers: where one is changed, no other result is, whatever the shape. What is random, depends
    on sizes or cannot be traced does not count.
    """
    if function is None or type(function) in ELEMENTWISE_LAYERS:
        return True
    try:
        known = _DECIDED.get(function)
    except Exception:  # not to be hashed, or compared
        return _decide(function)
    if known is None:
        known = _decide(function)
        with contextlib.suppress(TypeError):  # it has no weak references
            _DECIDED[function] = known
    return known


_DECIDED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def is_of_any_width(function: Any) -> bool:
    """Return whether a function that mixes channels is known to do the same whatever their number is."""
    name = getattr(function, "__name__", "")
    return name in WHOLE and function in (getattr(keras.activations, name, None), getattr(ops, name, None))


def has_arrays(operation: Any) -> str | None:
    """Return why an operation on each number is none: an array among its numbers, else None."""
    public = {name: x for name, x in vars(operation).items() if not name.startswith("_")}
    arrays = [name for name, x in public.items() if _size(x) > 1]
    return f"an array as {', '.join(arrays)}" if arrays else None


class _Plain(keras.StatelessScope):
    """Where no function reads a variable: what it does could change with it."""

    def get_current_value(self, variable: Any) -> Any:
        raise ValueError("it reads a variable")


def _decide(function: Any) -> bool:
    try:
        with compat.without_a_trace(has_values=True), _Plain():
            return all(_has_elementwise_program(each) and _is_elementwise_on_numbers(each) for each in _plain(function))
    except Exception:  # whatever the user's code raises
        return False


def _plain(function: Any) -> list[Callable]:
    """Return what stands for a function, layer or `Lambda` at inference, as functions of one tensor."""
    if type(function) is keras.layers.Activation:
        return [function.activation]
    if type(function) is keras.layers.Lambda:
        called = functools.partial(function.function, **function.arguments)
        if function._fn_expects_mask_arg:
            raise ValueError("it takes masks")
        if function._fn_expects_training_arg:
            return [functools.partial(called, training=training) for training in (None, False)]
        return [called]
    if isinstance(function, keras.Layer):
        if function.weights:
            raise ValueError("it has weights")
        return [function.call]
    return [function]


def _has_elementwise_program(function: Callable) -> bool:
    """Return whether all operations that a function makes change each number by itself."""
    if function in (keras.activations.mish, keras.activations.hard_silu):  # Keras's own take no symbolic tensors
        return True
    try:
        return _program_of_keras(function)
    except Exception:  # it takes no symbolic tensors
        if keras.backend.backend() == "tensorflow":
            return _program_of_tensorflow(function)
        return keras.backend.backend() == "jax" and _program_of_jax(function)


def _program_of_keras(function: Callable) -> bool:
    x = keras.Input((3,))
    y = function(x)
    if y is x:
        return True
    if y.shape != x.shape:
        return False
    for node in graphs.nodes(graphs.Functional(x, y)):
        operation = node.operation
        if node.is_input:
            continue
        if isinstance(operation, keras.Layer):
            if type(operation) is not keras.layers.Activation and type(operation) not in ELEMENTWISE_LAYERS:
                return False
            if not is_elementwise(operation):
                return False
        elif not (graphs.is_raw_operation(operation) and type(operation).__name__ in OF_KERAS):
            return False
        given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        others = [each for each in given if not isinstance(each, keras.KerasTensor)]
        if has_arrays(operation) or any(hasattr(each, "assign") or _size(each) > 1 for each in others):
            return False
    return True


def _size(x: Any) -> int:
    """Return how many numbers an argument has."""
    return int(np.prod(getattr(x, "shape", ()), dtype=int)) if hasattr(x, "shape") else np.size(x)


def _program_of_tensorflow(function: Callable) -> bool:
    tensorflow = sys.modules["tensorflow"]
    spec = tensorflow.TensorSpec((None, 3), "float32")
    made = tensorflow.function(lambda x: function(x), autograph=False).get_concrete_function(spec)
    if any(x.dtype == tensorflow.resource or x.shape.num_elements() != 1 for x in made.captured_inputs):
        return False
    definition = made.graph.as_graph_def()
    called = [node for each in definition.library.function for node in each.node_def]
    for node in [*definition.node, *called]:
        sizes = [each.size for each in node.attr["value"].tensor.tensor_shape.dim] if node.op == "Const" else []
        if node.op not in OF_TENSORFLOW or any(size != 1 for size in sizes):
            return False
    return True


def _program_of_jax(function: Callable) -> bool:
    jax = sys.modules["jax"]

    def are_known(program: Any, constants: Any) -> bool:
        if any(np.size(each) > 1 for each in constants):
            return False
        for equation in program.eqns:
            if equation.primitive.name not in OF_JAX:
                return False
            if equation.primitive.name == "broadcast_in_dim" and equation.invars[0].aval.size > 1:
                return False
            if any(np.size(getattr(each, "val", 0)) > 1 for each in equation.invars):
                return False
            for inner in keras.tree.flatten(list(equation.params.values())):
                inside = getattr(inner, "jaxpr", inner)
                if hasattr(inside, "eqns") and not are_known(inside, getattr(inner, "consts", ())):
                    return False
        return True

    closed = jax.make_jaxpr(function)(np.zeros((2, 3), "float32"))
    return are_known(closed.jaxpr, closed.consts)


def _is_elementwise_on_numbers(function: Callable) -> bool:
    """Return whether a changed number changes its own result only, in every shape, and every time."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=12) * 2, random.normal(size=8) * 50, [0.0, -0.0, 1.0, -1.0]])

    def result(x: np.ndarray, *shape: int) -> np.ndarray:
        y = ops.convert_to_numpy(function(ops.convert_to_tensor(x.reshape(shape), "float32")))
        if y.shape != shape:
            raise ValueError("another shape")
        return y.astype("float64").reshape(-1)

    expected = result(values, 24)
    alike = functools.partial(np.allclose, rtol=1e-5, atol=1e-6, equal_nan=True)
    with np.errstate(all="ignore"):
        for shape in ((24,), (4, 6), (1, 2, 4, 3)):
            if not alike(result(values, *shape), expected):
                return False
        for place in (0, 13, 23):
            for value in (random.normal(), 1e4, -1e4, np.nan):
                changed = np.where(np.arange(24) == place, value, values)
                if not alike(np.delete(result(changed, 4, 6), place), np.delete(expected, place)):
                    return False
    return True


HOMOGENEOUS_OPERATIONS = frozenset(["Relu", "LeakyRelu", "Abs", "Absolute", "Negative", "StopGradient"])
HOMOGENEOUS_FUNCTIONS = ("linear", "relu", "leaky_relu")

HOMOGENEOUS_LAYERS = (
    keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.Identity, keras.layers.Dropout,
    keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D,
    keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D,
)  # fmt: skip
"""Layers that change each channel by itself, at inference with f(z x) = z f(x) for z >= 0."""


def is_homogeneous(operation: Any) -> bool:
    """Return whether a layer or an activation is known to have f(z x) = z f(x) for z >= 0, in each channel."""
    if operation is None or type(operation) in HOMOGENEOUS_LAYERS:
        return True
    if type(operation) is keras.layers.Activation:
        return is_homogeneous(operation.activation)
    if type(operation) is keras.layers.ReLU:
        return operation.max_value is None and operation.threshold == 0
    if graphs.is_raw_operation(operation):
        return type(operation).__name__ in HOMOGENEOUS_OPERATIONS
    backends = [getattr(sys.modules.get(backend), "nn", None) for backend in ("tensorflow", "jax")]
    modules = [keras.activations, ops, *backends]
    return any(getattr(module, name, None) is operation for module in modules for name in HOMOGENEOUS_FUNCTIONS)
