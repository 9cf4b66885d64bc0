"""TensorFlow checkpoints of the port C3D-tensorflow: V1 (one file) and V2 (`.index` and `.data`).

Variables are named `wc1 wc2 wc3a ... wc5b wd1 wd2 wout` and `bc1 ... bout`, below any scope.
Convolution kernels are (depth, height, width, in, out), dense ones (in, out). Optimiser slots are
ignored. Any other variable is an error, because a network with more layers is another network.

No checkpoint records two facts, and a wrong guess would give wrong features without an error, so
the user must give both:

- The channel order of the frames that the network was trained on: BGR for weights converted from
  Caffe, RGB for those that the port trained.
- The order of the rows of wd1, which are fc6's inputs. The port transposes pool5 to (channel,
  height, width) before it flattens it, as Caffe does. But by its README, the files that
  were converted from Caffe are used without the transpose: their rows are (height, width, channel).

The reader is tested with files that the tests write; no published file was at hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from c3d_client.core.contract import FEATURE_SIZE
from c3d_client.core.file_kinds import TABLE_MAGIC
from c3d_client.core.text import one_line

from c3d_export.errors import WeightsError
from c3d_export.weights.canonical import (
    LAYERS,
    Weights,
    expected_shapes,
    fc6_from_channels_first,
    swap_red_and_blue,
)

CHANNEL_ORDERS = ("bgr", "rgb")
FC6_ROWS = {"chw": "channel, height, width", "hwc": "height, width, channel"}

_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
_SUFFIX = re.compile(r"(\.index|\.meta|\.data-\d{5}-of-\d{5})$")

_DENSE = {"fc6": "d1", "fc7": "d2", "fc8": "out"}
# The port's name of each array: wc1, bc1, wc2 ... wc5b, bc5b, wd1, bd1, wd2, bd2, wout, bout.
_NAMES = {
    letter + _DENSE.get(layer, layer.replace("conv", "c")): f"{layer}/{part}"
    for layer in LAYERS
    for letter, part in (("w", "kernel"), ("b", "bias"))
}
# The key in the port's dictionaries of variables, which some forks use as the name.
_FC8_OF_RANK = {1: "bout", 2: "wout"}
# What tf.train.Checkpoint and graphs append to a variable's name.
_ENDING = re.compile(r"(/\.ATTRIBUTES/VARIABLE_VALUE|:\d+)$")
# Parts of the names of optimisers' variables that are not below a layer's name.
_OPTIMISER = re.compile(
    r"_?optimizers?(_\d+)?|(adam|momentum|rmsprop|adagrad|adadelta|ftrl|exponentialmovingaverage)\w*",
    re.IGNORECASE,
)
_LARGEST = 8192 * FEATURE_SIZE  # fc6's kernel
_NAME_LENGTH, _NAMES_SHOWN = 80, 5  # in messages

_RGB_NOTE = "; the port trains with another resize and mean than Caffe, so features are not Caffe's"


def find(path: Path) -> Path | None:
    """Return the checkpoint that a path names; None where the path is no checkpoint.

    Args:
        path: a V1 file, a V2 prefix, or the `.index`, `.data` or `.meta` of a V2 checkpoint.

    Raises:
        WeightsError: the checkpoint has no `.index`, or is ambiguous.
        OSError: the file cannot be read.
    """
    if not path.name:
        return None
    prefix = path.with_name(_SUFFIX.sub("", path.name))
    has_index = _with_suffix(prefix, ".index").is_file()
    if prefix != path and has_index:
        return prefix
    if prefix != path and _DATA.search(path.name) and path.is_file():
        raise WeightsError(
            f"{path}: a part of a TensorFlow checkpoint without its {prefix.name}.index; put both "
            "in one folder"
        )
    if not path.is_file():
        return path if has_index else None
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(TABLE_MAGIC)))
        if file.read() != TABLE_MAGIC:
            return None
    if has_index:
        raise WeightsError(
            f"{path}: names two TensorFlow checkpoints, this file and {path.name}.index; move one "
            "to another folder"
        )
    return path


def read(path: Path, *, channels: str | None, fc6_rows: str | None) -> Weights:
    """Read a checkpoint that :func:`find` returned.

    Args:
        path: the V1 file, or the V2 prefix.
        channels: the order of the channels that the network was trained on: ``bgr`` or ``rgb``.
        fc6_rows: the order of wd1's rows: a key of :data:`FC6_ROWS`.

    Raises:
        WeightsError: the channel order or the rows' order is not given, or the checkpoint is
            damaged, or not C3D.
    """
    if channels is None or fc6_rows is None:
        missing = [
            option
            for option, value in (("--channels", channels), ("--fc6-rows", fc6_rows))
            if value is None
        ]
        raise WeightsError(
            f"{path}: a TensorFlow checkpoint does not record the order of its channels and of "
            f"fc6's rows; give {' and '.join(missing)} (trained by the port C3D-tensorflow: rgb "
            "and chw; converted from Caffe for it: bgr and hwc)"
        )
    if channels not in CHANNEL_ORDERS or fc6_rows not in FC6_ROWS:
        raise WeightsError(
            f"{path}: channels {channels!r} and fc6 rows {fc6_rows!r}; "
            f"choose {' or '.join(CHANNEL_ORDERS)}, and {' or '.join(FC6_ROWS)}"
        )
    arrays = _arrays(path)
    if fc6_rows == "chw":
        arrays["fc6/kernel"] = fc6_from_channels_first(arrays["fc6/kernel"].T)
    if channels == "rgb":
        # Canonical arrays take BGR. build turns conv1 to RGB, as for every format: this undoes it.
        arrays = swap_red_and_blue(arrays)
    note = f"a TensorFlow checkpoint, its channels ({channels}) and fc6 rows ({fc6_rows}) as given"
    return Weights(
        arrays={key: np.ascontiguousarray(array) for key, array in arrays.items()},
        source=path.name,
        format="tensorflow-checkpoint",
        file_sha256=_sha256(path),
        note=note + (_RGB_NOTE if channels == "rgb" else ""),
        source_channel_order=channels.upper(),
        source_fc6_rows=FC6_ROWS[fc6_rows],
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the checkpoint's arrays by canonical key, as they are stored.

    TensorFlow aborts the whole process at shapes that no saver writes, so that another process
    reads the checkpoint and sends the arrays.
    """
    # Modules in the current folder, which -c finds first, are not this program's.
    code = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as reader; reader.send()"
    command = [sys.executable, "-c", code, str(path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            head = json.loads(process.stdout.readline())
            if "error" in head:
                raise WeightsError(head["error"])
            arrays = {}
            for key, shape in head["shapes"].items():
                content = process.stdout.read(4 * math.prod(shape))
                arrays[key] = np.frombuffer(content, "<f4").reshape(shape)
            return arrays
        except ValueError as error:  # the process ended early
            process.wait()
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            reason = one_line(lines[-1]) if lines else f"exit code {process.returncode}"
            raise WeightsError(f"{path}: TensorFlow cannot read it ({reason})") from error


def send() -> None:
    """Write the arrays of the checkpoint in sys.argv to standard output: see :func:`_arrays`."""
    path = Path(sys.argv[1])
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever else is printed
        try:
            arrays = _read(path)
        except WeightsError as error:
            out.write(json.dumps({"error": str(error)}).encode() + b"\n")
            return
        shapes = {key: array.shape for key, array in arrays.items()}
        out.write(json.dumps({"shapes": shapes}).encode() + b"\n")
        for array in arrays.values():
            out.write(np.ascontiguousarray(array, "<f4").data)


def _read(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(path))
        names = _variables(
            reader.get_variable_to_shape_map(),
            {name: str(dtype.name) for name, dtype in reader.get_variable_to_dtype_map().items()},
            path,
        )
        return {key: np.asarray(reader.get_tensor(name), np.float32) for key, name in names.items()}
    except (
        *(tf.errors.OpError, RuntimeError, ValueError, TypeError, LookupError, MemoryError),
        OSError,
    ) as error:
        lines = str(getattr(error, "message", None) or error).strip().splitlines()
        reason = one_line(lines[0]) if lines else type(error).__name__
        raise WeightsError(f"{path}: a damaged TensorFlow checkpoint ({reason})") from error


def _variables(
    shapes: Mapping[str, list[int]], dtypes: Mapping[str, str], path: Path
) -> dict[str, str]:
    """Return the variables of C3D's arrays by canonical key, checked before any array is read."""
    names: dict[str, str] = {}
    others: list[str] = []
    for name in sorted(shapes):
        *scopes, last = _ENDING.sub("", name).split("/")
        if last == "out":
            last = _FC8_OF_RANK.get(len(shapes[name]), last)
        if any(scope in _NAMES or _OPTIMISER.fullmatch(scope) for scope in scopes):
            continue  # a slot of an optimiser, such as var_name/wc1/Adam
        if last not in _NAMES:
            # Steps, learning rates, averages of losses, and what describes the checkpoint.
            if shapes[name] and not last.startswith("_"):
                others.append(name)
            continue
        key = _NAMES[last]
        if key in names:
            raise WeightsError(f"{path}: has {last} twice, as {_shown([names[key], name])}")
        names[key] = name
    if not names:
        raise WeightsError(
            f"{path}: a TensorFlow checkpoint without C3D's variables (wc1, bc1 ... wd2, bd2); "
            f"it has {_shown(others) or 'no arrays'}"
        )
    missing = [
        name
        for name, key in _NAMES.items()
        if key not in names
        # fc8 may be absent as a whole: the network then computes features only.
        and not (key.startswith("fc8/") and "fc8/kernel" not in names and "fc8/bias" not in names)
    ]
    if missing:
        raise WeightsError(f"{path}: not C3D's weights: {', '.join(missing)} missing")
    if others:
        raise WeightsError(
            f"{path}: not C3D's weights: {_shown(others)} not expected; save a checkpoint of the "
            "network alone"
        )
    _check(names, shapes, dtypes, path)
    return names


def _check(
    names: Mapping[str, str],
    shapes: Mapping[str, list[int]],
    dtypes: Mapping[str, str],
    path: Path,
) -> None:
    def size(key: str) -> int:
        return shapes[names[key]][-1] if shapes[names[key]] else 0

    expected = expected_shapes(
        size("conv1/bias"), size("fc8/bias") if "fc8/bias" in names else None
    )
    for key, variable in names.items():
        shape, name = tuple(shapes[variable]), _shown([variable])
        if shape != expected[key]:
            raise WeightsError(
                f"{path}: {name} has shape {list(shape)}, expected {list(expected[key])}"
                + (
                    "; the port's older network has other depths, and is not C3D"
                    if key in ("conv5a/kernel", "conv5b/kernel") and shape[:1] != expected[key][:1]
                    else ""
                )
            )
        if np.prod(shape, dtype=float) > _LARGEST:
            raise WeightsError(
                f"{path}: {name} has shape {list(shape)}; C3D's largest array has {_LARGEST:,} "
                "numbers"
            )
        if dtypes[variable] not in ("float16", "bfloat16", "float32", "float64"):
            raise WeightsError(f"{path}: {name} is {dtypes[variable]}, expected float32")


def _shown(names: Sequence[str]) -> str:
    """Return the first names for a message, on one line and at a bearable length."""
    return ", ".join(one_line(name)[:_NAME_LENGTH] for name in names[:_NAMES_SHOWN])


def _sha256(path: Path) -> str:
    """Return the digest of a V1 file, or of a V2 checkpoint's `.index` and `.data` together."""
    digest = hashlib.sha256()
    parts = [path]
    if not path.is_file():
        data = [p for p in path.parent.iterdir() if _DATA.sub("", p.name) == path.name]
        parts = [_with_suffix(path, ".index"), *sorted(data)]
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _with_suffix(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)
