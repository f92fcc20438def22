"""Writes the SavedModels that the tests serve, and what Python TensorFlow answers for some of them.

    python tests/models/make_models.py DIRECTORY

Writes DIRECTORY/NAME/1 for every function in MODELS, and DIRECTORY/expected/NAME.npz (`in_ALIAS`, `out_ALIAS` arrays) where the
function returns a request and the answer.  The only file of the tests that imports TensorFlow: made.py runs it once in its own
process and keeps the result by a hash of this file and TensorFlow's version.  Must not know: pytest, tfs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

Arrays = Mapping[str, np.ndarray]
Answer = tuple[Arrays, Arrays]
tf1 = tf.compat.v1
RNG = np.random.default_rng(7)


def export_function(path: str, function: Callable[..., object], **inputs: tf.TensorSpec) -> None:
    """Saves `function` (keyword tensors -> dict of tensors) as the only signature."""
    module = tf.Module()
    module.serve = tf.function(function, input_signature=None)
    concrete = module.serve.get_concrete_function(
        **{k: tf.TensorSpec(s.shape, s.dtype, k) for k, s in inputs.items()}
    )
    tf.saved_model.save(module, path, signatures=concrete)


def answer_of(path: str, **inputs: np.ndarray) -> Answer:
    """What TensorFlow answers for the model in `path`, loaded again."""
    loaded = tf.saved_model.load(path).signatures["serving_default"]
    outputs = loaded(**{k: tf.constant(v) for k, v in inputs.items()})
    return inputs, {
        k: v.numpy().astype("S") if v.dtype == tf.string else v.numpy() for k, v in outputs.items()
    }


def spec(*shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


# --- the small ones -----------------------------------------------------------------------------------------------------------


def half_plus_two(path: str) -> Answer:
    """A TF1 `simple_save` model: y = x / 2 + 2, variables and all."""
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        half, two = (
            tf1.get_variable(name, initializer=value) for name, value in (("half", 0.5), ("two", 2.0))
        )
        y = tf.add(tf.multiply(x, half), two, name="y")
        session.run(tf1.global_variables_initializer())
        tf1.saved_model.simple_save(session, path, inputs={"x": x}, outputs={"y": y})
        value = np.array([1, 2, 5], np.float32)
        return {"x": value}, {"y": session.run(y, {x: value})}


def echo(path: str) -> Answer:
    """The float tensor that came, of any shape."""
    export_function(path, lambda x: {"y": tf.identity(x)}, x=tf.TensorSpec(None, tf.float32))
    return answer_of(path, x=np.array([1, 2, 5], np.float32))


def scalar(path: str) -> None:
    """A scalar output: the sum of the rows."""
    export_function(path, lambda x: {"y": tf.reduce_sum(x)}, x=spec(None))


def strings(path: str) -> Answer:
    """Strings in; strings and their lengths out."""
    export_function(
        path,
        lambda text: {"upper": tf.strings.upper(text), "length": tf.strings.length(text)},
        text=spec(None, dtype=tf.string),
    )
    lines = [f"win {n} free tickets now, or see you at lunch on day {n}?".encode() for n in range(10)]
    return answer_of(path, text=np.array(lines))


def outputs20(path: str) -> None:
    """Twenty outputs, y00 = x to y19 = x + 19."""
    export_function(path, lambda x: {f"y{i:02}": x + float(i) for i in range(20)}, x=spec(None))


def inputs64(path: str) -> Answer:
    """Sixty-four inputs of one float per row, one output: their sum."""
    names = [f"x{i:02}" for i in range(64)]
    export_function(
        path,
        lambda **inputs: {"y": tf.add_n([inputs[name] for name in names])},
        **{name: spec(None) for name in names},
    )
    return answer_of(path, **{name: np.arange(2, dtype=np.float32) + i for i, name in enumerate(names)})


def embedding(path: str) -> Answer:
    """One id per row in, 1,536 floats out."""
    table = tf.constant(RNG.standard_normal((1000, 1536)), tf.float32)
    export_function(
        path, lambda ids: {"embedding": tf.gather(table, ids % 1000)}, ids=spec(None, dtype=tf.int64)
    )
    return answer_of(path, ids=np.array([3, 14, 15, 926], np.int64))


def images(path: str) -> Answer:
    """224 x 224 x 3 floats per row in, three channel means out: large requests."""
    export_function(
        path, lambda image: {"mean": tf.reduce_mean(image, [1, 2])}, image=spec(None, 224, 224, 3)
    )
    return answer_of(path, image=RNG.random((4, 224, 224, 3), np.float32))


def denormal(path: str) -> None:
    """A matmul whose products lie below the smallest normal float: TensorFlow's own threads flush them to zero."""
    weight = tf.constant(np.full((8, 8), 1e-20, np.float32))
    export_function(path, lambda x: {"y": tf.matmul(x, weight)}, x=spec(None, 8))


# --- the slow and the stuck ---------------------------------------------------------------------------------------------------


def loop(path: str) -> None:
    """A while loop whose length comes with the request."""

    def body(n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "y": tf.while_loop(
                lambda i: i < n, lambda i: [i + 1], [tf.zeros_like(n)], maximum_iterations=None
            )[0]
        }

    export_function(path, body, n=spec(dtype=tf.int32))


def slow_loop(path: str) -> None:
    """A loop of about two seconds, many short kernels: TensorFlow can stop it between them."""
    weight = tf.constant(RNG.standard_normal((64, 64)) / 64, tf.float32)

    def rounds(x: tf.Tensor, count: int) -> tf.Tensor:
        start = tf.fill([64, 64], tf.reduce_sum(x))
        return tf.while_loop(
            lambda i, _: i < count,
            lambda i, y: [i + 1, tf.matmul(y, weight)],
            [0, start],
            parallel_iterations=1,
        )[1][0, :1]

    trial = tf.function(lambda x: rounds(x, 2000))
    trial(tf.zeros([1]))
    started = time.perf_counter()
    trial(tf.zeros([1]))
    count = int(2000 * 2.0 / (time.perf_counter() - started))
    export_function(path, lambda x: {"y": rounds(x, count)}, x=spec(None))


def slow_matmul(path: str) -> None:
    """One matmul of about half a second: a single kernel, which nothing can stop."""

    def product(x: tf.Tensor, size: int) -> tf.Tensor:
        matrix = tf.fill([size, size], tf.reduce_sum(x))
        return tf.matmul(matrix, matrix)[0, :1]

    trial = tf.function(lambda x: product(x, 1500))
    trial(tf.zeros([1]))
    started = time.perf_counter()
    trial(tf.zeros([1]))
    size = int(1500 * (0.5 / (time.perf_counter() - started)) ** (1 / 3))
    export_function(path, lambda x: {"y": product(x, size)}, x=spec(None))


def stuck(path: str) -> None:
    """Waits for ever in an empty queue."""
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        queue = tf1.FIFOQueue(1, [tf.float32], shapes=[[]], name="queue")
        tf1.saved_model.simple_save(session, path, inputs={"x": x}, outputs={"y": x + queue.dequeue()})


# --- the awkward --------------------------------------------------------------------------------------------------------------


def poison(path: str) -> None:
    """Stateless; fails for any row that is not finite."""
    export_function(path, lambda x: {"y": tf.debugging.check_numerics(x, "poison") / 2 + 2}, x=spec(None))


def convolutions(path: str) -> None:
    """`flat` is reshaped before its convolution, `image` only gets one more dimension, `offset` meets neither."""
    kernel = tf.constant(RNG.standard_normal((3, 3, 1, 2)), tf.float32)

    def summed(images: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.nn.conv2d(images, kernel, 1, "SAME"), [1, 2])

    def both(flat: tf.Tensor, image: tf.Tensor, offset: tf.Tensor) -> dict[str, tf.Tensor]:
        reshaped = summed(tf.reshape(flat, [-1, 28, 28, 1]))
        return {"y": reshaped + offset, "z": summed(tf.expand_dims(image, -1))}

    export_function(path, both, flat=spec(None, 784), image=spec(None, 28, 28), offset=spec())


def counter(path: str) -> None:
    """Stateful: the first call answers 1, the next 2."""
    module = tf.Module()
    module.count = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.cast(module.count.assign_add(1), tf.float32) + 0 * x}

    module.serve = serve
    tf.saved_model.save(module, path, signatures=serve)


def assign_input(path: str) -> None:
    """Keeps the tensor it is fed in a variable and answers the one of the call before."""
    module = tf.Module()
    module.kept = tf.Variable(tf.zeros([0]), shape=[None])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        before = tf.identity(module.kept.read_value())
        with tf.control_dependencies([before]):
            module.kept.assign(x)
        return {"before": before}

    module.serve = serve
    tf.saved_model.save(module, path, signatures=serve)


def py_function(path: str) -> None:
    """Calls back into Python, which no server can do."""

    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        y = tf.numpy_function(lambda value: value + 1, [x], tf.float32)
        y.set_shape([None])
        return {"y": y}

    export_function(path, serve, x=spec(None))


# --- MNIST, the ways people export it; random weights answer as well as trained ones ----------------------------------------------


def digits() -> np.ndarray:
    return RNG.random((4, 28, 28, 1), np.float32)


def cnn(*filters: int, strides: int = 1, dense: int = 32) -> keras.Sequential:
    """A 28 x 28 x 1 -> 10 convolution net."""
    layers: list[keras.layers.Layer] = [keras.Input((28, 28, 1), name="image")]
    for count in filters:
        layers += [
            keras.layers.Conv2D(count, 3, strides=strides, activation="relu"),
            keras.layers.MaxPooling2D(),
        ]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dense(dense, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
    return keras.Sequential(layers)


def answered(model: keras.Model, alias: str, output: str) -> Answer:
    images_in = digits()
    return {alias: images_in}, {output: np.asarray(model(images_in))}


def mnist(path: str) -> Answer:
    """`model.export`, what Keras 3 recommends; small: some 20 µs per image."""
    model = cnn(8, strides=2)
    model.export(path, verbose=False)
    return answered(model, "image", "output_0")


def mnist_large(path: str) -> Answer:
    """Deeper: with one thread per op some 0.3 ms alone, some 40 µs per image in a batch of 32."""
    convolutions = [
        keras.layers.Conv2D(16, 3, strides=2 if number < 2 else 1, padding="same", activation="relu")
        for number in range(16)
    ]
    last = [
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((28, 28, 1), name="image"), *convolutions, *last])
    model.export(path, verbose=False)
    return answered(model, "image", "output_0")


def keras_sequential(path: str) -> Answer:
    """`tf.saved_model.save` of a Sequential: Keras 3 writes twin variables, one of them never restored."""
    model = cnn(8, 16)
    tf.saved_model.save(model, path)
    loaded = tf.saved_model.load(path).signatures["serving_default"]
    _, names = loaded.structured_input_signature
    return answered(model, next(iter(names)), next(iter(loaded.structured_outputs)))


class Subclassed(keras.Model):
    """A model with its own signature, as many books print it."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.out = keras.layers.Dense(10, activation="softmax")

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.float32, name="image")])
    def call(self, image: tf.Tensor) -> tf.Tensor:
        return self.out(self.hidden(self.flatten(image)))


def keras_subclassed(path: str) -> Answer:
    """A subclassed model saved with `signatures={"call": ...}`: no serving_default, twin variables."""
    model = Subclassed()
    model.build((None, 28, 28, 1))
    tf.saved_model.save(model, path, signatures={"call": model.call})
    loaded = tf.saved_model.load(path).signatures["call"]
    return answered(model, "image", next(iter(loaded.structured_outputs)))


def mnist_tf1(path: str) -> Answer:
    """A TF1 graph with its own variables, saved by `simple_save`."""
    with tf.Graph().as_default(), tf1.Session() as session:
        image = tf1.placeholder(tf.float32, [None, 28, 28, 1], name="image")
        kernel = tf1.get_variable(
            "kernel", initializer=RNG.standard_normal((3, 3, 1, 8)).astype(np.float32) / 3
        )
        weight = tf1.get_variable(
            "weight", initializer=RNG.standard_normal((1568, 10)).astype(np.float32) / 40
        )
        maps = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME")), 2, 2, "SAME")
        scores = tf.nn.softmax(tf.matmul(tf.reshape(maps, [-1, 1568]), weight))
        session.run(tf1.global_variables_initializer())
        tf1.saved_model.simple_save(session, path, inputs={"image": image}, outputs={"scores": scores})
        value = digits()
        return {"image": value}, {"scores": session.run(scores, {image: value})}


MODELS: tuple[Callable[[str], Answer | None], ...] = (
    half_plus_two, echo, scalar, strings, outputs20, inputs64, embedding, images, denormal,
    loop, slow_loop, slow_matmul, stuck, poison, convolutions, counter, assign_input, py_function,
    mnist, mnist_large, keras_sequential, keras_subclassed, mnist_tf1,
)  # fmt: skip


def main(directory: Path) -> None:
    (directory / "expected").mkdir(parents=True, exist_ok=True)
    for make in MODELS:
        keras.utils.set_random_seed(7)
        answer = make(str(directory / make.__name__ / "1"))
        if answer is not None:
            inputs, outputs = answer
            arrays = {f"in_{k}": v for k, v in inputs.items()} | {f"out_{k}": v for k, v in outputs.items()}
            np.savez(directory / "expected" / f"{make.__name__}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
