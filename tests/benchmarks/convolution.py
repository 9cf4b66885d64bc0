"""Forms of each convolution compared with the direct one, in one process, in turn.

The source of `FORMS` in `c3d_export/winograd.py`: `python -m benchmarks.convolution` in tests/
prints a Markdown table of milliseconds a clip, and the largest difference as a fraction of the
layer's largest output. Inputs are what a ReLU leaves of Gaussian noise, and the kernels have the
variance that keeps such inputs as they are.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the exporter's command and the images do.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import tensorflow as tf
from c3d_export.winograd import F2, F4, FORMS, PAIR, Form, convolution

# Frames, rows and columns, and input and output channels.
LAYERS = {
    "conv2": (16, 56, 64, 128),
    "conv3a": (8, 28, 128, 256),
    "conv3b": (8, 28, 256, 256),
    "conv4a": (4, 14, 256, 512),
    "conv4b": (4, 14, 512, 512),
    "conv5a": (2, 7, 512, 512),
}
NAMES = {
    "frames F2, pixels F2": Form(F2, F2),
    "frames F2, pixels F4": Form(F2, F4),
    "frames F2, pixels F4, 4 tiles at a time": Form(F2, F4, tiles=4),
    "two frames, pixels F2": Form(PAIR, F2),
}
ROUNDS = 5


def main() -> int:
    tf.get_logger().setLevel("ERROR")  # it warns of a graph for each layer and size, as meant here
    sizes = [int(text) for text in sys.argv[1:]] or [1, 8]
    print("| layer | clips | form | ms a clip | direct over it | difference |")
    print("|---|---|---|---|---|---|", flush=True)
    for layer, (frames, side, inputs, outputs) in LAYERS.items():
        rng = np.random.default_rng(0)
        scale = np.sqrt(2 / 27 / inputs)
        kernel = (scale * rng.standard_normal((3, 3, 3, inputs, outputs))).astype(np.float32)
        forms = {
            name: form for name, form in NAMES.items() if form.frames is not PAIR or frames == 2
        }
        functions = {"direct": direct(kernel)}
        functions |= {name: winograd(kernel, form) for name, form in forms.items()}
        for size in sizes:
            noise = rng.standard_normal((size, frames, side, side, inputs))
            x = tf.constant(np.maximum(noise, 0), tf.float32)
            expected = functions["direct"](x).numpy()
            errors = {
                name: np.abs(function(x).numpy() - expected).max() / np.abs(expected).max()
                for name, function in functions.items()
            }
            times = in_turn(functions, x)
            for name, values in times.items():
                ratio = statistics.median(
                    a / b for a, b in zip(times["direct"], values, strict=True)
                )
                used = " (used)" if name in forms and same(forms[name], FORMS[layer]) else ""
                print(
                    f"| {layer} | {size} | {name}{used} | "
                    f"{1e3 * statistics.median(values) / size:.1f} | {ratio:.2f} | "
                    f"{errors[name]:.1e} |",
                    flush=True,
                )
    return 0


def same(a: Form, b: Form) -> bool:
    return a.frames is b.frames and a.pixels is b.pixels and a.tiles == b.tiles


def direct(kernel: np.ndarray):
    variable = tf.Variable(kernel)
    return tf.function(lambda x: tf.nn.conv3d(x, variable, [1] * 5, "SAME"))


def winograd(kernel: np.ndarray, form: Form):
    variable = tf.Variable(form.transformed(kernel))
    return tf.function(lambda x: convolution(x, variable, form))


def in_turn(functions, x: tf.Tensor) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            started = time.perf_counter()
            function(x).numpy()
            times[name].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    sys.exit(main())
