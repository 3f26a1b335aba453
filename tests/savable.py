"""Models that are saved, though layers inside of them could not be: each class knows how to make what it holds."""

import keras
from backend import hidden
from keras import layers as L
from keras import ops

registered = keras.saving.register_keras_serializable(package="savable")


def quick(x):
    return x * ops.sigmoid(1.702 * x)


FUNCTIONS = {"quick": quick, "gelu": ops.gelu, "lambda": lambda x: ops.tanh(x) + 0.5 * x}


class Net(keras.Model):
    """Built by a call of the layers that `make` makes, from a configuration of plain values."""

    def __init__(self, settings=None, **arguments):
        super().__init__(**arguments)
        self.settings = settings
        self.first, self.last = L.Dense(9, "relu", name="first"), L.Dense(3, name="last")
        self.make()

    def build(self, shape):
        self.call(ops.zeros((1, *shape[1:])))

    def make(self):
        raise NotImplementedError

    def middle(self, x):
        raise NotImplementedError

    def call(self, x):
        return self.last(self.middle(self.first(x)))

    def get_config(self):
        return super().get_config() | {"settings": self.settings}


@registered
class Functions(Net):
    """Functions that nobody registered, put in by the class: in layers that lose channels, and that do not."""

    def make(self):
        function = FUNCTIONS[self.settings] if self.settings in FUNCTIONS else lambda x: ops.square(x) - 0.5 * x
        self.dense = L.Dense(7, function, name="dense")
        self.activation = L.Activation(function, name="activation")
        self.function = L.Lambda(lambda x: function(x) * 2.0, name="function")
        self.hidden = L.Lambda(lambda x: function(hidden(x)), name="hidden")

    def middle(self, x):
        return self.hidden(self.function(self.activation(self.dense(x))))


class Scale(L.Layer):
    """Neither registered, nor with a configuration: it gets an object."""

    def __init__(self, policy, function, **arguments):
        super().__init__(dtype=policy, **arguments)
        self.function = function

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.built = True

    def call(self, x):
        return self.function(ops.cumsum(x, axis=-1)) * self.scale


class Forgets(Scale):
    """Its configuration is not what its constructor takes."""

    def get_config(self):
        return L.Layer.get_config(self) | {"policy": 3, "units": self.units}


class Block(L.Layer):
    """Neither registered, nor with a configuration; it makes layers when it is built."""

    def __init__(self, kinds, **arguments):
        super().__init__(**arguments)
        self.kinds = kinds

    def build(self, shape):
        policy = keras.DTypePolicy("float32")
        self.parts = [kind(policy, function) for kind, function in zip(self.kinds, (quick, ops.gelu))]
        self.by_name = {"out": L.Dense(shape[-1], FUNCTIONS["lambda"], name="out")}
        for part in [*self.parts, *self.by_name.values()]:
            part.build(shape)
        self.built = True

    def call(self, x):
        y = x
        for part in self.parts:
            y = part(y)
        return x + self.by_name["out"](y)


@registered
class Blocks(Net):
    """Layers that Keras cannot make again, in lists and dictionaries, one and two levels inside."""

    def make(self):
        self.blocks = [Block([Scale, Forgets]), Block([Forgets])]
        self.hidden = Scale(keras.DTypePolicy("float32"), lambda x: 0.5 * hidden(x))

    def middle(self, x):
        for block in self.blocks:
            x = block(x)
        return self.hidden(x)


@registered
class Rotation(L.Layer):
    """Says that it makes one tensor, and makes two."""

    def call(self, x, y, negative=False):
        return ops.roll(hidden(x), 1, axis=-1), ops.flip(y, axis=-1) * (-1.0 if negative else 1.0)

    def compute_output_spec(self, x, y, negative=False):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


@registered
class Lazy(L.Layer):
    """Says what it makes, and builds what it holds when it is called."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.units, self.inner = units, L.Dense(units)

    def call(self, x):
        return self.inner(hidden(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@registered
class Declared(Net):
    def make(self):
        self.rotation, self.lazy = Rotation(name="rotation"), Lazy(6, name="lazy")

    def middle(self, x):
        a, b = self.rotation(x, 2.0 * x, negative=True)
        return self.lazy(a + b)


@registered
class Several(L.Layer):
    """Makes a dictionary of a tensor and two more, of which one is not used."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.split = [L.Dense(4, FUNCTIONS["lambda"], name=name) for name in "abc"]

    def build(self, shape):
        for each in self.split:
            each.build(shape)
        self.built = True

    def call(self, x):
        a, b, c = (each(x) for each in self.split)
        return {"a": a, "more": [b, {"c": c}]}


@registered
class Outputs(Net):
    """Several outputs in a dictionary."""

    def make(self):
        self.several = Several(name="several")

    def call(self, x):
        found = self.several(self.first(x))
        return {"y": self.last(found["a"] + found["more"][0]), "z": [found["a"]]}


class Tied(L.Embedding):
    """An embedding that is used in reverse, too."""

    def call(self, x, reverse=False):
        return ops.matmul(x, ops.transpose(self.embeddings)) if reverse else super().call(x)

    def compute_output_spec(self, x, reverse=False):
        if reverse:
            return keras.KerasTensor((*x.shape[:-1], self.input_dim), dtype=self.compute_dtype)
        return super().compute_output_spec(x)


@registered
class Backbone(keras.Model):
    """A Functional model by its own constructor."""

    def __init__(self, words, **arguments):
        table, norm = Tied(words, 6, name="table"), Scale(keras.DTypePolicy("float32"), quick, name="norm")
        i = keras.Input((5,), dtype="int32")
        x = table(i)
        x = x + L.Dense(6, name="out")(L.Dense(8, quick, name="units")(norm(x)))
        super().__init__(i, x, **arguments)
        self.table, self.words = table, words

    def get_config(self):
        return {"name": self.name, "words": self.words}


@registered
class Language(keras.Model):
    """Reads the embedding of the model inside in reverse, twice."""

    def __init__(self, backbone, **arguments):
        x = backbone(backbone.input)
        first = backbone.table(L.Dense(6, "relu", name="head")(x), reverse=True)
        second = backbone.table(ops.tanh(x), reverse=True)
        super().__init__(backbone.input, {"first": first, "second": second}, **arguments)
        self.backbone = backbone

    def get_config(self):
        return {"name": self.name, "backbone": keras.saving.serialize_keras_object(self.backbone)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("backbone")), **config)


class Cell(L.Layer):
    """A cell without a configuration."""

    def __init__(self, units, function, **arguments):
        super().__init__(**arguments)
        self.units = self.state_size = units
        self.function = function

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.built = True

    def call(self, x, states):
        y = self.function(ops.matmul(x, self.kernel) + states[0])
        return y, [y]


class Random(L.Layer):
    """Stays whole, with a random state and a layer inside."""

    def __init__(self, function, **arguments):
        super().__init__(**arguments)
        self.function, self.seed = function, keras.random.SeedGenerator(3)
        self.inner, self.dropout = L.Dense(5, function), L.Dropout(0.3)

    def build(self, shape):
        self.inner.build(shape)
        self.own = self.add_weight(shape=(5,), name="own")
        self.built = True

    def call(self, x, training=False):
        return self.function(self.dropout(self.inner(hidden(x)), training=training)) * self.own

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)


@registered
class Wrapped(Net):
    """Functions in wrapped layers and cells, some of which lose channels; mixed precision."""

    def make(self):
        self.again = L.TimeDistributed(L.Dense(7, quick, name="dense"), name="again")
        self.cell = L.RNN(Cell(5, FUNCTIONS["lambda"]), return_sequences=True)
        self.random = Random(lambda x: quick(x) + 1.0, dtype="mixed_float16" if self.settings else None)
        self.wrapped = L.TimeDistributed(Random(ops.gelu))

    def middle(self, x):
        return self.wrapped(self.random(self.cell(self.again(ops.expand_dims(x, 1)))))[:, 0]


@registered
class Forgetting(L.Layer):
    """Its configuration leaves out the factor, without which Keras makes another layer."""

    def __init__(self, units, factor=1.0, **arguments):
        super().__init__(**arguments)
        self.units, self.inner = units, L.Dense(units, lambda x: quick(x) * factor, name="dense")

    def build(self, shape):
        self.inner.build(shape)
        self.built = True

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@registered
class Knowing(Net):
    def make(self):
        self.inner = Forgetting(6, 3.0)

    def middle(self, x):
        return self.inner(x)


@registered
class Stack(keras.Sequential):
    """A Sequential model by its own constructor."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        for layer in (L.Dense(9, quick, name="first"), L.Lambda(lambda x: 2.0 * quick(hidden(x))), L.Dense(3)):
            self.add(layer)

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


@registered
class Siblings(keras.Model):
    """A layer and a model in two models inside, and outside of them."""

    def __init__(self, **arguments):
        shared, random = L.Dense(8, quick, name="shared"), Random(quick, name="random")
        i = keras.Input((8,))
        core = keras.Model(i, L.Dense(8, "relu", name="units")(shared(i)), name="core")
        i = keras.Input((8,))
        one = keras.Model(i, [shared(core(i)), random(i)], name="one")
        i = keras.Input((8,))
        other = keras.Model(i, shared(L.Dense(8, "relu", name="first")(core(i))) + L.Dense(8)(random(i)), name="other")
        i = keras.Input((8,), name="it")
        x, y = one(i)
        x = other(x)
        super().__init__(i, {"a": L.Dense(3)(shared(x)), "b": [core(x), L.Dense(2)(random(core(i))), y]}, **arguments)

    def get_config(self):
        return {"name": self.name}


class Head(L.Layer):
    """Reads the weights of a layer that it gets, which others call, or hold, too."""

    def __init__(self, table, **arguments):
        super().__init__(**arguments)
        self.table, self.dense = table, L.Dense(6, quick)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return ops.matmul(self.dense(x), ops.transpose(self.table.embeddings))


@registered
class Heads(keras.Model):
    """A head on the table of the inputs; two on a table that nobody calls."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = L.Embedding(11, 6, name="table")
        self.first, self.middle = L.Dense(9, quick, name="first"), L.Dense(6)
        other = L.Embedding(11, 6, name="other")
        other.build((None,))
        self.heads = [Head(self.table, name="head"), Head(other, name="one"), Head(other, name="two")]

    def build(self, shape):
        self.call(keras.Input(shape[1:], dtype="int32"))

    def call(self, x):
        x = self.middle(self.first(self.table(x)))
        return [head(x) for head in self.heads]


class Reverse(L.Layer):
    """Has a weight of another layer as its own."""

    def __init__(self, table, **arguments):
        super().__init__(**arguments)
        self.table = table

    def build(self, shape):
        self.kernel = self.table.embeddings
        self.built = True

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.kernel))


@registered
class Reversed(Heads):
    """One weight in two layers."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.heads = [Reverse(self.table, name="reverse")]


MODELS = {
    **{f"function {name}": lambda name=name: Functions(name) for name in (*FUNCTIONS, "local")},
    "blocks": Blocks,
    "declared": Declared,
    "several outputs": Outputs,
    "shared": lambda: Language(Backbone(11)),
    "shared by siblings": Siblings,
    "shared by heads": Heads,
    "shared weight": Reversed,
    "wrapped": Wrapped,
    "wrapped mixed": lambda: Wrapped("mixed"),
    "forgotten": Knowing,
    "sequential": Stack,
}
