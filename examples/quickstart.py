"""Train a small network on handwritten digits into structure, cut it out, and export it."""

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

optimizer = kr.RMDA(0.3, momentum=0.1, regularizer=kr.GroupLasso(2e-3))
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
stages, monitor = kr.callbacks.StagewiseSchedule([22, 34]), kr.callbacks.SparsityMonitor()
model.fit(x, y, 64, epochs=40, verbose=2, validation_data=test, callbacks=[monitor, stages])

print(kr.analyze(model))
small = kr.strip(model)
kr.export_tflite(small, "digits.tflite", "int8", representative_data=x[:200])
print(f"{small.count_params():,} parameters, {kr.benchmark_tflite('digits.tflite').median:.3f} ms")
