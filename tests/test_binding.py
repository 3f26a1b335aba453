"""Optimizers inside of others know the layers of their variables, and callbacks find them."""

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from keras import layers as L
from training import PSI, X, Y, initial_loss, needs_multi_optimizer, network, train, weights

import keras_rmda as kr
from keras_rmda.platform.nested import inner_optimizers


class Wrapper(keras.optimizers.Optimizer):
    """An optimizer of the user's own around others, which train the variables whose paths begin with their keys."""

    def __init__(self, inner):
        super().__init__(learning_rate=0.0)
        self.inner = inner

    def _parts(self, variables):
        for start, each in self.inner.items():
            yield each, [k for k, variable in enumerate(variables) if variable.path.startswith(start)]

    def build(self, variables):
        for each, own in self._parts(variables):
            each.build([variables[k] for k in own])
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        for each, own in self._parts(variables):
            each.apply([grads[k] for k in own], [variables[k] for k in own])
        self._iterations.assign_add(1)

    def finalize_variable_values(self, var_list):
        for each, own in self._parts(var_list):
            each.finalize_variable_values([var_list[k] for k in own])

    @property
    def variables(self):
        return [*self._variables, *(v for each in self.inner.values() for v in each.variables)]


class WrapperOfOne(Wrapper):
    """The same around one optimizer, in an attribute; as many do, that one refers to what is around it."""

    def __init__(self, inner):
        super().__init__({})
        self.only, inner.around = inner, self

    def _parts(self, variables):
        yield self.only, range(len(variables))

    @property
    def variables(self):
        return [*self._variables, *self.only.variables]


def multi(choice):
    return keras.optimizers.MultiOptimizer(choice)


MAPS = {
    "MultiOptimizer by a map": lambda ours: multi(keras.optimizers.OptimizerMap(ours)),
    "MultiOptimizer by a function": lambda ours: multi(lambda variable: ours),
    "loss scaling around MultiOptimizer": lambda ours: keras.optimizers.LossScaleOptimizer(multi(lambda v: ours)),
}
WRAPPERS = {
    "loss scaling": lambda ours: keras.optimizers.LossScaleOptimizer(ours, initial_scale=8.0),
    "own, attribute": WrapperOfOne,
    "own, dictionary": lambda ours: Wrapper({"": ours}),
    **(MAPS if hasattr(keras.optimizers, "MultiOptimizer") else {}),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def transposed():
    """Return a model with a layer whose kernel has its inputs along the last axis, and the numbers of its groups."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4, 4, 3)), L.Conv2DTranspose(4, 3, name="t"), L.Dense(2, name="d"), L.Flatten(), L.Dense(2)]
    return keras.Sequential(layers), {"input": 3, "output": 4}


@every_wrapper
@pytest.mark.parametrize("groups", ["input", "output"])
def test_groups_follow_the_layer_table_inside_of_other_optimizers(wrap, groups):
    model, counts = transposed()
    ours = kr.RMDA(0.1, 1.0, kr.GroupLasso(1e-3, groups))
    model.compile(wrap(ours), "mse")
    model.optimizer.build(model.trainable_variables)
    kernel = model.get_layer("t").kernel
    assert number(ours.penalty_of(kernel).group_norms(kernel)).size == counts[groups]
    assert inner_optimizers(model.optimizer) == [ours]


@every_wrapper
def test_training_inside_of_other_optimizers_is_that_without(wrap):
    """One step and its end; the penalty, here of the layer, is counted once."""
    found = []
    for around in (wrap, lambda ours: ours):
        model = network(kernel_regularizer=kr.GroupLasso(8.0))
        model.compile(around(kr.RMDA(0.1, 0.5)), "mse")
        assert model.evaluate(X, Y, verbose=0) == pytest.approx(initial_loss(), rel=1e-5)
        history = model.fit(X, Y, batch_size=len(X), verbose=0)
        assert history.history["loss"][0] == pytest.approx(initial_loss(), rel=1e-5)
        assert model.losses == []
        found.append(weights(model))
    np.testing.assert_allclose(*found, atol=1e-6)
    assert (found[0] == 0).any()


@needs_multi_optimizer
def test_a_function_may_make_an_optimizer_for_each_variable():
    model = network(kernel_regularizer=kr.GroupLasso(8.0))
    model.compile(multi(lambda variable: kr.RMDA(0.1, 0.5)), "mse")
    history = model.fit(X, Y, batch_size=len(X), verbose=0)
    assert history.history["loss"][0] == pytest.approx(initial_loss(), rel=1e-5)
    assert len(model.optimizer.optimizers) == 4
    assert (number(model.get_layer("a").kernel) == 0).any()


def test_each_part_of_a_wrapper_of_the_users_own_counts_its_penalties():
    optimizer = Wrapper({"net/a": kr.RMDA(0.1, 0.5), "net/b": keras.optimizers.SGD(0.0)})
    model = network(kernel_regularizer=kr.L1(0.5))
    model.get_layer("b").kernel.regularizer = psi = kr.L1(0.3)
    train(optimizer, model, epochs=1)
    assert float(number(sum(model.losses))) == pytest.approx(float(number(psi(model.get_layer("b").kernel))), rel=1e-5)
    a = model.get_layer("a").kernel
    np.testing.assert_array_equal(number(a), number(optimizer.inner["net/a"].structured_value(a)))


def test_the_model_is_the_one_that_is_compiled_with_the_optimizer():
    """Not one that was compiled later and has the same variables."""
    model, _ = transposed()
    ours = kr.RMDA(0.1, 1.0, {f"{model.name}/t/kernel": kr.GroupLasso(1e-3)})
    model.compile(ours, "mse")
    other = keras.Sequential(model.layers, name="other")
    other.compile("sgd", "mse")
    ours.build(model.trainable_variables)
    assert ours.penalty_of(model.get_layer("t").kernel) is not None


@needs_multi_optimizer
def test_callbacks_find_optimizers_that_a_function_makes():
    """On TensorFlow `fit` begins before they are known."""
    model = network()
    groups = kr.coupled_groups(model)
    ours, others = kr.RMDA(0.1, 0.1, kr.GroupLasso(0.1, groups=groups)), keras.optimizers.SGD(0.05)
    path, target = kr.callbacks.SolutionPath(), kr.callbacks.TargetSparsity(0.5, "groups", 0.0, 0.5)
    monitor, stages = kr.callbacks.SparsityMonitor(), kr.callbacks.StagewiseSchedule([2])
    for callbacks in ([stages, monitor, target], [path]):
        model.compile(multi(lambda v: ours if "kernel" in v.path else others), "mse")
        logs = model.fit(X, Y, epochs=4, verbose=0, callbacks=callbacks).history
        if callbacks == [path]:
            assert set(path.entered) == {"net/b/kernel"}
        else:
            assert float(number(ours.learning_rate)) == pytest.approx(0.01)
            assert logs["zero_groups"][-1] == pytest.approx(0.5)
            assert logs["groups_left"][-1] == pytest.approx(0.5)


@only_tensorflow  # elsewhere Keras builds it before `fit` begins
@needs_multi_optimizer
def test_stages_of_a_model_that_is_not_built_say_what_is_missing():
    model = keras.Sequential([L.Dense(2)])
    model.compile(multi(lambda v: kr.RMDA(0.1)), "mse")
    with pytest.raises(ValueError, match=r"keras\.Input"):
        model.fit(X, Y[:, :2], epochs=2, verbose=0, callbacks=[kr.callbacks.StagewiseSchedule([1])])


def test_loss_scaling_is_built_once():
    """Keras's builds itself anew at every call, with other variables."""
    model = network()
    psi = kr.GroupLasso(PSI.strength, groups=kr.coupled_groups(model))
    scaled = keras.optimizers.LossScaleOptimizer(kr.RMDA(0.1, 0.5, psi))
    model.compile(scaled, "mse")
    model.fit(X, Y, verbose=0)
    count = len(scaled.variables)
    model.fit(X, Y, verbose=0, callbacks=[kr.callbacks.TargetSparsity(0.875, "groups"), kr.callbacks.SolutionPath()])
    assert len(scaled.variables) == count


@pytest.mark.parametrize("optimizer", ["sgd", "ours"])
def test_a_regularizer_that_a_layer_gets_too_late_is_reported(optimizer):
    """Keras looks at the attribute when the layer is built, and never again."""
    model = network(bias_regularizer=kr.L1(0.1))
    model.compile(kr.RMDA() if optimizer == "ours" else optimizer, "mse")  # no warning
    model.get_layer("a").kernel_regularizer = kr.L1(0.1)
    model.get_layer("a").bias_regularizer = kr.L1(0.2)
    model.get_layer("b").kernel_regularizer = keras.regularizers.L2(0.1)  # Keras's business
    with pytest.warns(kr.SparsityWarning, match=r": a\.kernel_regularizer, a\.bias_regularizer\. .*constructors"):
        model.compile(kr.RMDA() if optimizer == "ours" else optimizer, "mse")


def test_regularizers_of_every_layer_are_where_they_belong():
    """Of all layers with a regularizer in the constructor, and before they are built, none is reported."""
    psi, x = kr.L1(0.1), keras.Input((6, 4))
    kernels = {"kernel_regularizer": psi}
    late = L.Dense(3)
    late.kernel_regularizer = psi
    layers = [
        L.Bidirectional(L.GRU(2, return_sequences=True, **kernels)),
        L.SeparableConv1D(3, 2, depthwise_regularizer=psi, pointwise_regularizer=psi),
        L.BatchNormalization(beta_regularizer=psi),
        L.EinsumDense("abc,cd->abd", (None, 4), **kernels),
        L.LayerNormalization(gamma_regularizer=psi),
        L.LSTM(4, recurrent_regularizer=psi, **kernels),
        late,
    ]
    y = L.MultiHeadAttention(2, 3, **kernels)(x, x)
    for layer in layers:
        y = layer(y)
    keras.Model(x, y).compile("sgd", "mse")
    assert late.kernel.regularizer is psi


class Pair(keras.Model):
    """Two networks with layers of the same names, one of which an optimizer of its own trains."""

    def __init__(self, trained, other):
        super().__init__()
        self.trained, self.other = trained, other

    def call(self, x):
        return self.other(self.trained(x))


def test_coupled_groups_of_a_model_inside():
    """As of a generator, whose optimizer knows the model around it."""
    parts = [
        keras.Sequential([keras.Input((n,)), L.Dense(6, "relu", name="a"), L.Dense(4, name="b")], name=name)
        for n, name in ((4, "generator"), (4, "discriminator"))
    ]
    pair = Pair(*parts)
    pair.compile()
    pair(np.zeros((1, 4), "float32"))
    groups = kr.coupled_groups(parts[0])
    optimizer = kr.ProxSGD(0.1, regularizer=kr.GroupLasso(100.0, groups=groups))
    optimizer.build(parts[0].trainable_variables)
    assert [psi and psi.path for psi in optimizer._penalties] == [None, None, "b/kernel", None]
