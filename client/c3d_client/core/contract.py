"""Numbers and names that the client and the servable share. Uses the standard library only.

Both sides import this module, so that they cannot differ. The numbers are those of C3D (Tran et
al., ICCV 2015) and of the C3D-v1.0 Caffe code with which its weights were trained; a comment names
the source of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
# A clip and the next one share the second half of the first.
HALF_SHAPE = (CLIP_STRIDE, *CLIP_SHAPE[1:])
CLIP_BYTES = CLIP_FRAMES * CROP_SIZE * CROP_SIZE * CHANNELS  # uint8

# The widths of fc6 and fc7, and the number of classes of Sports-1M.
FEATURE_SIZE = 4096
SPORTS1M_CLASSES = 487

# Trailing metadata of this project's local server, in seconds: they separate computing from waiting
# and from transport. TensorFlow Serving sends none, and other clients ignore them.
QUEUE_TRAILER = "c3d-queue-s"
COMPUTE_TRAILER = "c3d-compute-s"

# The batch sizes for which a servable is warmed up, and which a batching server may form. The
# client's requests are never larger than the last one. Merged requests of 8 clips need no
# padding; with 1, 8 and 32 alone, 16 and 24 clips would be padded to 32.
BATCH_SIZES = (1, 8, 16, 24, 32)
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
    """One signature of the servable, or one way to request it.

    Input and outputs have the same first dimension.

    Args:
        name: the signature's name.
        input: the only input.
        output: the output that is read, the first of several.
        further: the other outputs that are read.
        filtered: whether a request names its outputs, so that the server computes no other.
    """

    name: str
    input: TensorSpec
    output: TensorSpec
    further: tuple[TensorSpec, ...] = ()
    filtered: bool = False

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that are read, in order."""
        return (self.output, *self.further)

    def reading(self, *names: str) -> Signature:
        """Return the signature as it is requested for some of its outputs, in this order.

        One output is requested by a filter. Several are requested without: TensorFlow Serving has
        a queue for each set of output names and merges only requests of the same queue, so clients
        that want different sets share one queue, which is warmed up.
        """
        specs = {spec.name: spec for spec in self.outputs}
        first, *others = (specs[name] for name in names)
        return replace(self, output=first, further=tuple(others), filtered=not others)


_CLIPS = TensorSpec("clips", "UINT8", CLIP_SHAPE)
_FEATURES = TensorSpec("features", "FLOAT", (FEATURE_SIZE,))

# The layers that a client can request, and the shape of a clip's row: conv5b, fc6 and fc7 after
# their ReLU, as Caffe computes them in place; fc8 before the softmax. Channels are the last axis.
# They are 512 in C3D; networks of another width, and fc8 of other classes, have another number.
LAYERS = {
    spec.name: spec
    for spec in (
        TensorSpec("conv5b", "FLOAT", (2, 7, 7, -1)),
        TensorSpec("pool5", "FLOAT", (1, 4, 4, -1)),
        TensorSpec("fc6", "FLOAT", (FEATURE_SIZE,)),
        TensorSpec("fc7", "FLOAT", (FEATURE_SIZE,)),
        TensorSpec("fc8", "FLOAT", (-1,)),
    )
}
DEFAULT_LAYER = "fc6"

CLASSIFY = Signature("classify", _CLIPS, TensorSpec("probabilities", "FLOAT", (-1,)))
FC6_FEATURES = Signature("fc6_features", _CLIPS, _FEATURES)
FC7_FEATURES = Signature("fc7_features", _CLIPS, _FEATURES)
# Consecutive clips without sending each frame twice: row i is the clip of the halves i and i + 1,
# and the last row is of no use. Where the server merges requests, the last row of each is the clip
# of its last half and of whatever follows; the other rows are the same. Where a server splits
# requests, other rows are wrong.
FC6_FEATURES_HALVES = Signature(
    "fc6_features_halves", TensorSpec("halves", "UINT8", HALF_SHAPE), _FEATURES
)
# Any layers of one computation; without fc8 where the weights end at fc7.
LAYERS_SIGNATURE = Signature(
    "layers", _CLIPS, LAYERS["conv5b"], tuple(LAYERS[name] for name in list(LAYERS)[1:])
)
# It has a batch dimension because a batching server requires one; requests have one row.
MODEL_CARD = Signature("model_card", TensorSpec("n", "INT32", ()), TensorSpec("json", "STRING", ()))

SIGNATURES = {
    s.name: s
    for s in (
        *(CLASSIFY, FC6_FEATURES, FC6_FEATURES_HALVES, FC7_FEATURES, LAYERS_SIGNATURE),
        MODEL_CARD,
    )
}
# The signatures of every servable, also of release 0.1.0, whatever its weights and its target.
FEATURES_ONLY_SIGNATURES = {s.name: s for s in (FC6_FEATURES, FC7_FEATURES, MODEL_CARD)}
# `serving_default` is an alias of `classify`, or of `fc6_features` where there are no classes.
DEFAULT_SIGNATURE = "serving_default"
# The signatures that every servable must have; the others are optional.
REQUIRED_SIGNATURES = (FC6_FEATURES.name, MODEL_CARD.name)
