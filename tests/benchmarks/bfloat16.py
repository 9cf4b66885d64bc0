"""Winograd's convolution in bfloat16 compared with the direct one, which servables have.

`python -m benchmarks.bfloat16 [WEIGHTS] [WIDTH]` in tests/, by default ``random:0`` and 64. Prints
a Markdown table for clips of real videos: the speed of the network up to fc6, and its difference
from direct convolution in float32. Kernels are transformed in float64 and rounded once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the exporter's command and the images do.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import tensorflow as tf
from c3d_client import decode_frames, iter_clips
from c3d_export.architecture import build_c3d, set_weights
from c3d_export.mean import SPORTS1M_SCALARS, read_mean
from c3d_export.verify import TOLERANCES, relative_difference
from c3d_export.weights import Weights, read_weights
from c3d_export.weights.canonical import swap_red_and_blue
from c3d_export.winograd import FORMS, Form, convolution, in_groups
from support.measures import cosine
from support.videos import h264_sample

VIDEOS = {"carphone_pristine": 3, "bikes": 3, "bigbuckbunny": 2}  # clips of each
SIZES = (1, 8)
ROUNDS = 9
LOWEST_COSINE = 0.9999  # docs/fidelity.md


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Args:
        precision: that of the layers, and of the products of transformed kernels.
        forms: the layers that have Winograd's convolution, and its forms.
        transforms: the dtype of the transforms of input and output.
        grouped: compute the layers up to pool3 for one clip at a time, as servables do.
    """

    precision: str
    forms: Mapping[str, Form]
    transforms: str = "float32"
    grouped: bool = True


_LAST = {name: form for name, form in FORMS.items() if name.startswith(("conv4", "conv5"))}
DIRECT, REFERENCE = "bfloat16, direct (used)", "float32, direct"
NETWORKS = {
    REFERENCE: Network("float32", {}),
    "float32, Winograd's (used)": Network("float32", FORMS),
    DIRECT: Network("bfloat16", {}),
    "bfloat16, Winograd's, transforms in float32": Network("bfloat16", FORMS),
    "bfloat16, Winograd's, transforms in bfloat16": Network("bfloat16", FORMS, "bfloat16"),
    "bfloat16, Winograd's in conv4 and conv5 alone": Network(
        "bfloat16", _LAST, "bfloat16", grouped=False
    ),
}


def main(source: str = "random:0", width: str = "64") -> int:
    tf.get_logger().setLevel("ERROR")  # it warns of a graph for each size, as meant here
    weights = read_weights(source, width=int(width))
    clips = tf.constant(real_clips())
    functions = {name: function(network, weights) for name, network in NETWORKS.items()}
    answers = {name: fc6(clips).numpy() for name, fc6 in functions.items()}
    times = {size: in_turn(functions, clips[:size]) for size in SIZES}
    print(
        f"fc6 of {len(clips)} clips, {source}, width {width}; bounds: relative difference "
        f"{TOLERANCES['bfloat16']:.0e}, cosine {LOWEST_COSINE}. Speed relative to {DIRECT}, by the "
        f"time that passed (by processor time), medians of {ROUNDS} rounds.\n"
    )
    speeds = " | ".join(f"s a clip, {size} | speed, {size}" for size in SIZES)
    print(f"| network | {speeds} | difference | cosine |")
    print("|---|" + "---|" * (2 * len(SIZES) + 2))
    for name, answer in answers.items():
        cells = [name]
        for size in SIZES:
            passed, used = times[size][name].T
            ratios = np.median(times[size][DIRECT] / times[size][name], axis=0)
            cells += [f"{np.median(passed) / size:.3f}", f"{ratios[0]:.2f} ({ratios[1]:.2f})"]
        cells.append(f"{relative_difference(answer, answers[REFERENCE]):.1e}")
        cells.append(f"{cosine(answer, answers[REFERENCE]):.6f}")
        print(f"| {' | '.join(cells)} |")
    return 0


def real_clips() -> np.ndarray:
    """Return clips of the sample videos, from the first to the last of each."""
    clips = []
    for video, count in VIDEOS.items():
        every = [clip.pixels for clip in iter_clips(decode_frames(h264_sample(video)))]
        clips += [every[index] for index in np.linspace(0, len(every) - 1, count).astype(int)]
    return np.stack(clips)


def function(network: Network, weights: Weights) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the function of clips that computes fc6."""
    width = len(weights.arrays["conv1/bias"])
    model = build_c3d(width=width, classes=None, precision=network.precision)
    arrays = swap_red_and_blue(weights.arrays)
    set_weights(model, arrays)
    mean = tf.constant(read_mean(SPORTS1M_SCALARS).bgr[..., ::-1])
    kernels = {
        name: tf.Variable(tf.cast(form.transformed(arrays[f"{name}/kernel"]), network.precision))
        for name, form in network.forms.items()
    }
    names = [layer.name for layer in model.layers]
    pool3, fc6 = names.index("pool3") + 1, names.index("fc6") + 1

    def run(layers, x: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            if layer.name in kernels:
                y = convolution(
                    tf.cast(x, network.transforms), kernels[layer.name], network.forms[layer.name]
                )
                x = tf.nn.relu(tf.nn.bias_add(tf.cast(y, x.dtype), layer.bias))
            else:
                x = layer(x, training=False)
        return x

    def features(clips: tf.Tensor) -> tf.Tensor:
        x = tf.cast(tf.cast(clips, tf.float32) - mean, network.precision)
        size = 1 if network.forms and network.grouped else None
        shape = model.layers[pool3 - 1].output.shape[1:]
        x = in_groups(lambda part: run(model.layers[1:pool3], part), x, size, shape)
        return tf.cast(run(model.layers[pool3:fc6], x), tf.float32)

    return tf.function(features, autograph=False)


def in_turn(functions, clips: tf.Tensor) -> dict[str, np.ndarray]:
    """Return the seconds that passed and those of the processors, ``[ROUNDS, 2]``, by name."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for turn in range(ROUNDS + 1):
        for name in (functions, reversed(functions))[turn % 2]:
            started, used = time.perf_counter(), time.process_time()
            functions[name](clips).numpy()
            times[name].append((time.perf_counter() - started, time.process_time() - used))
    return {name: np.array(values[1:]) for name, values in times.items()}  # the first makes graphs


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
