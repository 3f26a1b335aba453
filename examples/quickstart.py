"""Make a small network for handwritten digits ten times smaller, and export it."""

import keras

import keras_rmda as kr
from keras_rmda.datasets import digits

(x, y), test = digits.load(size=16)
model = keras.Sequential([keras.Input((16, 16, 1))])
for filters in (32, 64, 128):
    model.add(keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False))
    model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.add(keras.layers.ReLU())
model.add(keras.layers.GlobalAveragePooling2D())
model.add(keras.layers.Dense(10, "softmax"))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=5, batch_size=64)

result = kr.compress(model, x, y, target=0.1, epochs=20, batch_size=64, validation_data=test)
print(result)
print(result.report)

file = result.export("digits.tflite", "int8")
print(f"{file.bytes:,} bytes, {kr.benchmark_tflite(file.path).median:.3f} ms")
