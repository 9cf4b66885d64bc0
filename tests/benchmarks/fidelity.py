"""`make fidelity`: the difference of the served network from Caffe's C3D, and of known mistakes.

Prints the Markdown tables of docs/fidelity.md. Random weights in Caffe's bytes show that the
computation is right; the known results need the published weights in models/.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from c3d_client import C3DClient, decode_frames, iter_clips
from c3d_client.core.contract import CLIP_SHAPE
from c3d_export.assets import usable_weights
from c3d_export.graph import GraphServable
from c3d_export.labels import numbered_labels
from c3d_export.local_server import LocalServer
from c3d_export.mean import Mean, read_mean
from c3d_export.servable import ServableSpec, build, save
from c3d_export.weights import Weights, read_weights
from support import caffe_bytes, oracle
from support.measures import cosine, relative
from support.videos import h264_sample

ROOT = Path(__file__).resolve().parents[2]
VIDEOS = ("carphone_pristine", "bikes", "bigbuckbunny")
STRIDE = 40  # the oracle needs a second per clip
MISTAKES_ON = "bigbuckbunny"  # 1280x720, large enough to show a wrong resize
# The Keras 2.2.4 file's class for a clip of zeros, without a mean.
ALL_ZERO_CLASS = 184


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        weights_file, mean_file = work / "c3d.caffemodel", work / "mean.binaryproto"
        weights_file.write_bytes(caffe_bytes.net_bytes(caffe_bytes.random_net(0)))
        mean_file.write_bytes(caffe_bytes.blob_bytes(caffe_bytes.random_mean(0)[None]))
        weights, mean = read_weights(str(weights_file)), read_mean(str(mean_file))
        net = oracle.parse_net(weights_file.read_bytes())
        cube = oracle.parse_mean(mean_file.read_bytes())
        served = serve(weights, mean, "float32", work)
        good = agreement(served, net, cube)
        mistakes(net, cube)
        good &= precision(served, weights, mean, work)
    good &= known_answers()
    print("\nall within their bounds" if good else "\nNOT within the bounds: see above")
    return 0 if good else 1


def serve(
    weights: Weights, mean: Mean, precision: str, work: Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each video's features and probabilities, through servable, gRPC and client."""
    spec = ServableSpec(
        weights=weights,
        mean=mean,
        labels=numbered_labels(weights.classes or 0),
        precision=precision,
        batch_sizes=(1, 4),
    )
    base = work / precision
    build(spec, base, elsewhere=True)
    server = LocalServer(base)
    server.start()
    try:
        with C3DClient(server.target, stride=STRIDE) as c3d:
            return {
                video: (
                    c3d.extract(h264_sample(video)).clip_features,
                    c3d.classify(h264_sample(video)).clip_probabilities,
                )
                for video in VIDEOS
            }
    finally:
        server.stop(5)


def agreement(served: dict, net: oracle.Net, cube: np.ndarray) -> bool:
    """Compare the served outputs with the oracle's."""
    print("## Served against the oracle\n")
    print("| video | clips | fc6, relative | probabilities, relative | fc6 cosine |")
    print("|---|---|---|---|---|")
    good = True
    for video, (features, probabilities) in served.items():
        frames = oracle.decode(h264_sample(video))
        starts = range(0, len(frames) - 15, STRIDE)
        stages = [oracle.stages(oracle.preprocess(frames[s : s + 16], cube), net) for s in starts]
        fc6 = np.stack([outputs["fc6"] for outputs in stages])
        prob = np.stack([outputs["prob"] for outputs in stages])
        differences = relative(features, fc6), relative(probabilities, prob)
        good &= max(differences) < 1e-4
        print(
            f"| {video} | {len(fc6)} | {differences[0]:.1e} | {differences[1]:.1e} | "
            f"{cosine(features, fc6):.8f} |"
        )
    return good


def mistakes(net: oracle.Net, cube: np.ndarray) -> None:
    """Compute one clip with each known mistake of C3D ports."""
    frames = oracle.decode(h264_sample(MISTAKES_ON), count=16)
    right = oracle.stages(oracle.preprocess(frames, cube), net)
    print(f"\n## Known mistakes, on the first clip of {MISTAKES_ON}\n")
    print("| mistake | fc6 cosine | top-1 |")
    print("|---|---|---|")
    for name, variant in oracle.MISTAKES.items():
        clip = oracle.preprocess(frames, cube, variant=variant)
        wrong = oracle.stages(clip, net, variant=variant)
        changed = int(wrong["prob"].argmax()) != int(right["prob"].argmax())
        similarity = cosine(wrong["fc6"].reshape(1, -1), right["fc6"].reshape(1, -1))
        print(f"| {name} | {similarity:.6f} | {'changed' if changed else 'the same'} |")


def precision(served: dict, weights: Weights, mean: Mean, work: Path) -> bool:
    """Compare bfloat16 and float16 with float32."""
    print("\n## Precision against float32, lowest fc6 cosine of a video's clips\n")
    print(f"| precision | {' | '.join(VIDEOS)} |")
    print(f"|---|{'---|' * len(VIDEOS)}")
    short = {video: clips for video, (clips, _) in serve(weights, mean, "bfloat16", work).items()}
    good = precision_row("bfloat16", served, short)
    if tf.config.list_physical_devices("GPU"):
        half = {video: clips for video, (clips, _) in serve(weights, mean, "float16", work).items()}
        return precision_row("float16", served, half) and good
    # Without a GPU a clip takes a minute: one clip of each video, without a server.
    half = first_clips(weights, mean, work / "float16")
    return precision_row("float16, first clip alone", served, half) and good


def precision_row(name: str, served: dict, short: dict[str, np.ndarray]) -> bool:
    cosines = [cosine(short[video], served[video][0][: len(short[video])]) for video in VIDEOS]
    print(f"| {name} | {' | '.join(f'{value:.6f}' for value in cosines)} |")
    return min(cosines) >= 0.9999


def first_clips(weights: Weights, mean: Mean, folder: Path) -> dict[str, np.ndarray]:
    """Return fc6 of each video's first clip in float16, from the SavedModel's session."""
    labels = numbered_labels(weights.classes or 0)
    save(ServableSpec(weights=weights, mean=mean, labels=labels, precision="float16"), folder)
    with GraphServable(folder) as servable:
        return {
            video: servable.run("fc6_features", {"clips": first_clip(video)})["features"]
            for video in VIDEOS
        }


def first_clip(video: str) -> np.ndarray:
    return next(iter_clips(decode_frames(h264_sample(video)))).pixels[None]


def known_answers() -> bool:
    """Compare with known results of the published weights, where the weights are in models/."""
    print("\n## Known answers of the published weights\n")
    names = [asset.name for asset in usable_weights(ROOT / "models")]
    if not names:
        print("not run: no weights")
        return True
    weights = read_weights(str(ROOT / "models" / names[0]))
    with tempfile.TemporaryDirectory() as folder:
        spec = ServableSpec(
            weights=weights,
            mean=read_mean("0,0,0"),
            labels=numbered_labels(weights.classes or 0),
            batch_sizes=(1,),
        )
        path, _ = build(spec, Path(folder) / "c3d")
        with GraphServable(path) as servable:
            zeros = np.zeros((1, *CLIP_SHAPE), np.uint8)
            probabilities = servable.run("classify", {"clips": zeros})["probabilities"][0]
    good = int(probabilities.argmax()) == ALL_ZERO_CLASS
    print(f"{names[0]}, a clip of zeros without a mean: class {probabilities.argmax()}, ", end="")
    print("as known" if good else f"NOT {ALL_ZERO_CLASS}")
    print("the reference snippet, axon's basketball clip, UCF101: not run: no videos")
    return good


if __name__ == "__main__":
    sys.exit(main())
