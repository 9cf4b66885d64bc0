"""The same network in PyTorch, ONNX Runtime and OpenVINO, each in its own process.

Runs in .venv-bench, without this project. All take the same uint8 clips ``[n, 16, 112, 112, 3]``,
subtract the mean within the measured time, and return fc6. `python -m benchmarks.peers PEER FOLDER
THREADS` answers requests; FOLDER has ``network.npz`` (RGB, Keras's layout, with ``mean``) and
``clips.npy``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipe import answer_requests

# name of a convolution, and the pool behind it
CONVOLUTIONS = (
    ("conv1", (1, 2, 2)),
    ("conv2", (2, 2, 2)),
    ("conv3a", None),
    ("conv3b", (2, 2, 2)),
    ("conv4a", None),
    ("conv4b", (2, 2, 2)),
    ("conv5a", None),
    ("conv5b", (2, 2, 2)),
)
Run = Callable[[np.ndarray], np.ndarray]
# Returns what describes a peer, and the function that computes fc6 of a batch.
Peer = tuple[dict[str, str], Run]


def caffe_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays with output channels first; fc6's inputs in the order channel, row, column.

    The mean has the axes of a clip, ``[16, 112, 112, 3]``.
    """
    with np.load(folder / "network.npz") as file:
        arrays = dict(file)
    for name, _ in CONVOLUTIONS:
        kernel = arrays[f"{name}/kernel"].transpose(4, 3, 0, 1, 2)
        arrays[f"{name}/kernel"] = np.ascontiguousarray(kernel)
    fc6 = arrays["fc6/kernel"]
    rows = fc6.reshape(4, 4, -1, fc6.shape[1]).transpose(3, 2, 0, 1)  # there is one time step
    arrays["fc6/kernel"] = np.ascontiguousarray(rows.reshape(fc6.shape[1], -1))
    return arrays


def torch_peer(folder: Path, threads: int, *, channels_last: bool) -> Peer:
    """PyTorch, eager, in inference mode."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    arrays = {name: torch.from_numpy(array) for name, array in caffe_arrays(folder).items()}
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    for name, _ in CONVOLUTIONS:
        arrays[f"{name}/kernel"] = arrays[f"{name}/kernel"].contiguous(memory_format=layout)

    def run(clips: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(clips).float() - arrays["mean"]
            x = x.permute(0, 4, 1, 2, 3).contiguous(memory_format=layout)
            for name, pool in CONVOLUTIONS:
                x = F.relu_(
                    F.conv3d(x, arrays[f"{name}/kernel"], arrays[f"{name}/bias"], padding=1)
                )
                if name == "conv5b":
                    x = F.pad(x, (0, 1, 0, 1))
                if pool:
                    x = F.max_pool3d(x, pool, pool)
            return F.relu(F.linear(x.flatten(1), arrays["fc6/kernel"], arrays["fc6/bias"])).numpy()

    return {"version": torch.__version__, "precision": "float32"}, run


def onnx_file(folder: Path) -> str:
    """Write the network as an ONNX model, if it is not there; returns its path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = folder / "network.onnx"
    if path.exists():
        return str(path)
    arrays = caffe_arrays(folder)
    nodes = [
        helper.make_node("Cast", ["clips"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 4, 1, 2, 3]),
    ]
    last = "planes"
    for name, pool in CONVOLUTIONS:
        inputs = [last, f"{name}/kernel", f"{name}/bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}/sum"], pads=[1] * 6))
        nodes.append(helper.make_node("Relu", [f"{name}/sum"], [name]))
        last = name
        if name == "conv5b":
            nodes.append(helper.make_node("Pad", [last, "padding"], ["padded"]))
            last = "padded"
        if pool:
            pooled = f"{name}/pool"
            nodes.append(
                helper.make_node("MaxPool", [last], [pooled], kernel_shape=pool, strides=pool)
            )
            last = pooled
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc6/kernel", "fc6/bias"], ["fc6/sum"], transB=1),
        helper.make_node("Relu", ["fc6/sum"], ["features"]),
    ]
    used = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in arrays.items() if name in used}
    constants["padding"] = np.array([0] * 5 + [0, 0, 0, 1, 1], np.int64)
    clips = ["n", *arrays["mean"].shape]
    graph = helper.make_graph(
        nodes,
        "c3d",
        [helper.make_tensor_value_info("clips", TensorProto.UINT8, clips)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4096])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return str(path)


def onnxruntime_peer(folder: Path, threads: int) -> Peer:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # An idle session must not use the cores that another competitor is measured on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        onnx_file(folder), options, providers=["CPUExecutionProvider"]
    )

    def run(clips: np.ndarray) -> np.ndarray:
        return session.run(["features"], {"clips": clips})[0]

    return {"version": onnxruntime.__version__, "precision": "float32"}, run


def openvino_peer(folder: Path, threads: int, *, float32: bool) -> Peer:
    """OpenVINO's CPU plugin, compiled for each batch size, in float32 or as it chooses."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if float32:
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    path = onnx_file(folder)
    compiled: dict[int, Any] = {}

    def for_batch(size: int) -> Any:
        if size not in compiled:
            model = core.read_model(path)
            shape = model.inputs[0].partial_shape
            shape[0] = size
            model.reshape(shape)
            compiled[size] = core.compile_model(model, "CPU", settings)
        return compiled[size]

    def run(clips: np.ndarray) -> np.ndarray:
        return for_batch(len(clips))([clips])[0]

    used = for_batch(1).get_property("INFERENCE_PRECISION_HINT").to_string()
    precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(used, used)
    return {"version": openvino.__version__.partition("-")[0], "precision": precision}, run


PEERS: dict[str, Callable[[Path, int], Peer]] = {
    "PyTorch": lambda folder, threads: torch_peer(folder, threads, channels_last=False),
    "PyTorch, channels-last": lambda folder, threads: torch_peer(
        folder, threads, channels_last=True
    ),
    "ONNX Runtime": onnxruntime_peer,
    "OpenVINO, float32": lambda folder, threads: openvino_peer(folder, threads, float32=True),
    "OpenVINO, its own choice": lambda folder, threads: openvino_peer(
        folder, threads, float32=False
    ),
}


def timed(run: Run, clips: np.ndarray) -> dict[str, Callable[..., Any]]:
    """Return the requests of a network: ``fc6`` into a file, and ``seconds`` of some calls."""

    def fc6(path: str, count: int) -> None:
        np.save(path, run(clips[:count]))

    def seconds(batch: int, calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            run(clips[:batch])
        return time.perf_counter() - started

    return {"fc6": fc6, "seconds": seconds}


def main() -> None:
    """Load one peer and answer requests."""
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

    def start() -> Any:
        about, run = PEERS[name](folder, threads)
        return about, timed(run, np.load(folder / "clips.npy"))

    answer_requests(start)


if __name__ == "__main__":
    main()
