"""Numbers and names that the client and the servable share. Uses the standard library only.

Both sides import this module, so that they cannot differ. The numbers are those of C3D (Tran et
al., ICCV 2015) and of the C3D-v1.0 Caffe code with which its weights were trained; a comment names
the source of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONTRACT_VERSION = "1"

# The default name and ports of the servable.
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

# The widths of fc6 and fc7, and the number of classes of Sports-1M.
FEATURE_SIZE = 4096
SPORTS1M_CLASSES = 487

# Trailing metadata of this project's local server, in seconds: they separate computing from waiting
# and from transport. TensorFlow Serving sends none, and other clients ignore them.
QUEUE_TRAILER = "c3d-queue-s"
COMPUTE_TRAILER = "c3d-compute-s"

# The batch sizes for which a servable is warmed up, and which a batching server may form. The
# client's requests are never larger than the last one.
BATCH_SIZES = (1, 8, 32)
MAX_BATCH_SIZE = BATCH_SIZES[-1]

# Written to the model card and to provenance: how pixels were made.
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
        shape: the shape after the batch dimension; -1 matches any size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def fits(self, shape: Sequence[int], *, rows: int = -1) -> bool:
        """Whether a shape is that of a batch of this tensor.

        Args:
            shape: the whole shape.
            rows: the expected first dimension; -1 for a dimension of any size.
        """
        return (
            len(shape) == 1 + len(self.shape)
            and shape[0] == rows
            and all(e in (-1, s) for e, s in zip(self.shape, shape[1:], strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """One signature of the servable: one input and one output of the same first dimension."""

    name: str
    input: TensorSpec
    output: TensorSpec


_CLIPS = TensorSpec("clips", "UINT8", CLIP_SHAPE)
_FEATURES = TensorSpec("features", "FLOAT", (FEATURE_SIZE,))

CLASSIFY = Signature("classify", _CLIPS, TensorSpec("probabilities", "FLOAT", (-1,)))
FC6_FEATURES = Signature("fc6_features", _CLIPS, _FEATURES)
FC7_FEATURES = Signature("fc7_features", _CLIPS, _FEATURES)
# It has a batch dimension because a batching server requires one; requests have one row.
MODEL_CARD = Signature("model_card", TensorSpec("n", "INT32", ()), TensorSpec("json", "STRING", ()))

SIGNATURES = {s.name: s for s in (CLASSIFY, FC6_FEATURES, FC7_FEATURES, MODEL_CARD)}
# The signatures of a servable whose weights have no fc8.
FEATURES_ONLY_SIGNATURES = {name: s for name, s in SIGNATURES.items() if s is not CLASSIFY}
# `serving_default` is an alias of `classify`, or of `fc6_features` where there are no classes.
DEFAULT_SIGNATURE = "serving_default"
# The signatures that every servable must have; the others are optional.
REQUIRED_SIGNATURES = (FC6_FEATURES.name, MODEL_CARD.name)
