"""What the client and the servable agree on: numbers and names, standard library only.

Both sides import this module, so neither can drift from the other unseen. Every number is
C3D's own (Tran et al., ICCV 2015, and the C3D-v1.0 Caffe code that its weights were trained
with); the comment beside each says where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONTRACT_VERSION = "1"

# Where the servable is found.
MODEL_NAME = "c3d"
GRPC_PORT = 8500
REST_PORT = 8501
DEFAULT_TARGET = f"localhost:{GRPC_PORT}"

# A clip. Caffe's VideoDataLayer reads 16 consecutive frames; the paper's features step by 8.
CLIP_FRAMES = 16
CLIP_STRIDE = 8

# A frame. Resized with OpenCV's bilinear to 171x128, aspect ratio ignored, then the centre crop
# as Caffe cuts it: integer division, so the left edge is 29 and not 30.
RESIZE_WIDTH = 171
RESIZE_HEIGHT = 128
CROP_SIZE = 112
CROP_TOP = (RESIZE_HEIGHT - CROP_SIZE) // 2
CROP_LEFT = (RESIZE_WIDTH - CROP_SIZE) // 2
CHANNELS = 3

CLIP_SHAPE = (CLIP_FRAMES, CROP_SIZE, CROP_SIZE, CHANNELS)
CLIP_BYTES = CLIP_FRAMES * CROP_SIZE * CROP_SIZE * CHANNELS  # uint8

# What the network gives: the widths of fc6 and fc7, and the classes of Sports-1M.
FEATURE_SIZE = 4096
SPORTS1M_CLASSES = 487

# Trailing metadata of our local server, in seconds, so that computing can be told from waiting and
# from transport. TensorFlow Serving sends none, and other clients ignore them.
QUEUE_TRAILER = "c3d-queue-s"
COMPUTE_TRAILER = "c3d-compute-s"

# The batch sizes that a servable is warmed up for, and that a batching server may form. The
# client's requests are never larger than the last.
BATCH_SIZES = (1, 8, 32)
MAX_BATCH_SIZE = BATCH_SIZES[-1]

# Said in the model card, so that a file of features tells how its pixels were made.
PREPROCESSING = {
    "resize": f"{RESIZE_WIDTH}x{RESIZE_HEIGHT} opencv-linear",
    "crop": (
        f"rows {CROP_TOP}:{CROP_TOP + CROP_SIZE}, columns {CROP_LEFT}:{CROP_LEFT + CROP_SIZE}"
    ),
    "wire": "RGB uint8",
}


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor of a signature.

    Args:
        name: the key in the signature.
        dtype: TensorFlow's name without the prefix, e.g. ``"UINT8"`` for ``DT_UINT8``.
        shape: the shape after the batch dimension; -1 stands for "as the model has it".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def fits(self, shape: Sequence[int], *, rows: int = -1) -> bool:
        """Whether a whole shape is that of so many rows of this; -1 is a free first dimension."""
        return (
            len(shape) == 1 + len(self.shape)
            and shape[0] == rows
            and all(e in (-1, s) for e, s in zip(self.shape, shape[1:], strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """One entry point of the servable: one input, one output, the same first dimension."""

    name: str
    input: TensorSpec
    output: TensorSpec


_CLIPS = TensorSpec("clips", "UINT8", CLIP_SHAPE)
_FEATURES = TensorSpec("features", "FLOAT", (FEATURE_SIZE,))

CLASSIFY = Signature("classify", _CLIPS, TensorSpec("probabilities", "FLOAT", (-1,)))
FC6_FEATURES = Signature("fc6_features", _CLIPS, _FEATURES)
FC7_FEATURES = Signature("fc7_features", _CLIPS, _FEATURES)
# Batch-shaped like the others, or a batching server would refuse it: ask it with one row.
MODEL_CARD = Signature("model_card", TensorSpec("n", "INT32", ()), TensorSpec("json", "STRING", ()))

SIGNATURES = {s.name: s for s in (CLASSIFY, FC6_FEATURES, FC7_FEATURES, MODEL_CARD)}
# Weights without fc8 make a servable of these alone.
FEATURES_ONLY_SIGNATURES = {name: s for name, s in SIGNATURES.items() if s is not CLASSIFY}
# `serving_default` answers as `classify` does, or as `fc6_features` where there are no classes.
DEFAULT_SIGNATURE = "serving_default"
# Without these the client can do nothing; the others are asked for by name only.
REQUIRED_SIGNATURES = (FC6_FEATURES.name, MODEL_CARD.name)
