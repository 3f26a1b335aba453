"""A training loop of one's own, by several workers, with nothing but public functions of TensorFlow and Keras.

    python examples/custom_loop.py FOLDER [--workers 2] [--epochs 8]

The network, the digits and the way in which workers are started are those of `multi_worker.py`. What `model.compile`
and `model.fit` do there is done here by hand: the optimizer is built in the strategy's scope, every replica divides its
loss by the batch of all, since the optimizer adds up their gradients, stages begin with `restart`, and `project` writes
the exact zeros at the end.
"""

import multi_worker


def train(options, rank):
    """Train, and return the model and whether this worker writes files."""
    import keras
    import tensorflow as tf

    import keras_rmda as kr

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = multi_worker.compiled()
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(cross_entropy(y, model(x, training=True))) / multi_worker.BATCH
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    @tf.function
    def step_of_all(batch):
        return strategy.reduce("SUM", strategy.run(step, args=batch), axis=None)

    data = strategy.experimental_distribute_dataset(multi_worker.dataset())
    for epoch in range(options.epochs):
        if epoch == options.epochs - 2:  # the last stage: a tenth of the learning rate, history forgotten
            optimizer.learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate)) / 10
            optimizer.restart()
        losses = [float(step_of_all(batch)) for batch in data]
        multi_worker.say(epoch, {"loss": sum(losses) / len(losses)})
    optimizer.project(model)
    return model, kr.distribute.is_chief(strategy)


if __name__ == "__main__":
    multi_worker.main(__doc__, {"tensorflow": train})
