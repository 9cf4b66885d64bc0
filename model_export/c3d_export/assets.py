"""The published C3D files: weights, mean cubes and labels; their addresses and fingerprints.

None of the files is in this repository: they belong to their authors and are for non-commercial
use. `fetch.py` downloads them into models/, where `make example` and `make export` find them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from c3d_client.core.errors import UsageError

LICENCE = "non-commercial use, CC BY-NC 3.0"

HEAD_BYTES = 512
"""The length of the beginning that is compared."""

_PAGE = (b"<!doctype html", b"<html")
_DIGITS_SHOWN = 16

_HDF5 = (b"\x89HDF\r\n\x1a\n",)
_TORCH = (b"PK\x03\x04", b"\x80")  # torch.save writes a zip archive, before version 1.6 a pickle
_CAFFE = (b"\x0a", b"\x12")  # a NetParameter begins with its name or its first layer
_PICKLE = (b"\x80", b"(l", b"]")
# A C3D-v1.0 BlobProto: num = 1, channels = 3, length = 16, height = 128.
_BLOB = (b"\x08\x01\x10\x03\x18\x10\x20\x80\x01",)


@dataclass(frozen=True)
class Fingerprint:
    """Size, digests and first bytes of a published file; unknown ones are not checked.

    Args:
        size: the length in bytes.
        md5: 32 hexadecimal digits.
        sha256: 64 hexadecimal digits, or the first 8 or more where only those are published.
        magic: the possible first bytes.

    Raises:
        UsageError: a size or digest that no file can have.
    """

    size: int | None = None
    md5: str = ""
    sha256: str = ""
    magic: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"size is {self.size}; a published file has at least one byte")
        for name, pattern in (("md5", "[0-9a-f]{32}"), ("sha256", "[0-9a-f]{8,64}")):
            digits = getattr(self, name)
            if digits and not re.fullmatch(pattern, digits):
                raise UsageError(f"{name} is {digits!r}; give hexadecimal digits in lower case")

    @property
    def has_digest(self) -> bool:
        """Whether a file of the same size and first bytes but other content is detected."""
        return bool(self.md5 or self.sha256)

    def wrong_start(self, head: bytes) -> str:
        """Return how the first bytes differ, observed against expected; empty where they do not.

        Args:
            head: the first HEAD_BYTES bytes, or the whole of a shorter file.
        """
        # Hosts send a web page instead of the file when they require a login or a click.
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE):
            return "it is a web page (of a login, a quota or an error), not the file"
        if self.magic and not head.startswith(self.magic):
            magic = " or ".join(map(repr, self.magic))
            return f"it begins with {head[:8]!r}; the file begins with {magic}"
        return ""

    def problem(self, path: Path) -> str:
        """Return how a file differs, observed against expected; empty where it does not.

        Raises:
            OSError: the file cannot be read.
        """
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, 2)
            # Before the size: a web page has the wrong size too, which would say less.
            if wrong_start := self.wrong_start(head):
                return wrong_start
            if not size:
                return "it is empty"
            if self.size is not None and size != self.size:
                return f"it has {size:,} bytes; the published file has {self.size:,}"
            for name in ("md5", "sha256"):
                expected = getattr(self, name)
                digest = _hex_digest(file, name) if expected else ""
                if not digest.startswith(expected):
                    digest, expected = digest[:_DIGITS_SHOWN], expected[:_DIGITS_SHOWN]
                    return f"its {name} begins with {digest}; the published file's with {expected}"
        return ""


@dataclass(frozen=True)
class Asset:
    """One published file.

    Args:
        name: the file's name, as published.
        kind: the kind of its content.
        about: content and origin, for people.
        fingerprint: its size, digests and first bytes, as far as they are published.
        urls: download addresses, best first; empty where a browser is needed.
        page: the web page of the file.
        classes: outputs of fc8, for weights; 0 where there is no fc8, and so no `classify`.
    """

    name: str
    kind: Literal["weights", "mean", "labels"]
    about: str
    fingerprint: Fingerprint = Fingerprint()
    urls: tuple[str, ...] = ()
    page: str = ""
    classes: int = 0

    @property
    def verified(self) -> str:
        """How far a file without a problem has been verified, for people."""
        if self.fingerprint.has_digest:
            return "checksum right"
        return "no published checksum to compare with"


# The best first within a kind. Every address was found on `page` or in the source that the comment
# names.
CATALOGUE = (
    Asset(
        "sports1M_weights_tf.h5",
        "weights",
        "Sports-1M, Keras 2 HDF5, channels last (adamcasson/c3d)",
        Fingerprint(md5="b7a93b2f9156ccbebe3ca24b41fc5402", magic=_HDF5),
        ("https://github.com/adamcasson/c3d/releases/download/v0.1/sports1M_weights_tf.h5",),
        page="https://github.com/adamcasson/c3d",
        classes=487,
    ),
    Asset(
        "C3D_Sport1M_weights_keras_2.2.4.h5",
        "weights",
        "Sports-1M, Keras 2.2.4 HDF5, channels last (aslucki/C3D_Sport1M_keras)",
        Fingerprint(magic=_HDF5),
        page="https://drive.google.com/file/d/1rlZ-xTkTMjgWKiQFUedRnHlDgQwx6yTm/view",
        classes=487,
    ),
    Asset(
        "conv3d_deepnetA_sport1m_iter_1900000",
        "weights",
        "Sports-1M, the authors' own, Caffe C3D-v1.0",
        Fingerprint(magic=_CAFFE),
        # axon-research/c3d-keras, models/get_weights_and_mean.sh; the page: facebookarchive/C3D
        # issue 297, one of the authors.
        ("http://vlg.cs.dartmouth.edu/c3d/conv3d_deepnetA_sport1m_iter_1900000",),
        page="https://www.dropbox.com/s/vr8ckp0pxgbldhs/conv3d_deepnetA_sport1m_iter_1900000?dl=0",
        classes=487,
    ),
    Asset(
        "c3d_model.pkl",
        "weights",
        "Sports-1M, Lasagne model zoo, a Python 2 pickle",
        Fingerprint(size=319_965_140, magic=_PICKLE),
        # Lasagne/Recipes, modelzoo/c3d.py, its earlier and its later version.
        (
            "https://s3.amazonaws.com/lasagne/recipes/pretrained/c3d/c3d_model.pkl",
            "https://data.vision.ee.ethz.ch/gyglim/C3D/c3d_model.pkl",
        ),
        page="https://github.com/Lasagne/Recipes",
        classes=487,
    ),
    Asset(
        "c3d.pickle",
        "weights",
        "Sports-1M, PyTorch state_dict (DavideA/c3d-pytorch)",
        Fingerprint(magic=_TORCH),
        ("http://imagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle",),
        page="https://github.com/DavideA/c3d-pytorch",
        classes=487,
    ),
    Asset(
        "c3d-pretrained.pth",
        "weights",
        "Sports-1M, PyTorch (jfzhang95/pytorch-video-recognition)",
        Fingerprint(magic=_TORCH),
        page="https://drive.google.com/file/d/19NWziHWh1LgCcHU34geoKwYezAogv9fX/view?usp=sharing",
        classes=487,
    ),
    Asset(
        "c3d-sports1M_weights.h5",
        "weights",
        "Sports-1M, Keras 1 HDF5 for Theano (albertomontesg)",
        Fingerprint(magic=_HDF5),
        # albertomontesg/keras-model-zoo.
        ("https://www.dropbox.com/s/ypiwalgtlrtnw8b/c3d-sports1M_weights.h5?dl=1",),
        page="https://gist.github.com/albertomontesg/d8b21a179c1e6cca0480ebdf292c34d2",
        classes=487,
    ),
    Asset(
        "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
        "weights",
        "Sports-1M, mmaction2, without fc8: features only",
        # OpenMMLab ends a file's name with the first digits of its SHA-256.
        Fingerprint(sha256="dcc47ddc", magic=_TORCH),
        # open-mmlab/mmaction2, configs/_base_/models/c3d_sports1m_pretrained.py.
        (
            "https://download.openmmlab.com/mmaction/recognition/c3d/"
            "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
        ),
        page="https://github.com/open-mmlab/mmaction2",
    ),
    Asset(
        "c3d_ucf101_finetune_whole_iter_20000",
        "weights",
        "fine-tuned on UCF101 by the authors, Caffe C3D-v1.0",
        Fingerprint(magic=_CAFFE),
        # facebookarchive/C3D, examples/c3d_finetuning/get_ucf101_finetuned_c3d_model.sh.
        ("https://www.dropbox.com/s/mkc9q7g4wnqnmcv/c3d_ucf101_finetune_whole_iter_20000",),
        page="https://github.com/facebookarchive/C3D",
        classes=101,
    ),
    Asset(
        "sport1m_train16_128_mean.binaryproto",
        "mean",
        "the Sports-1M mean cube, the one that the Sports-1M weights were trained with",
        Fingerprint(magic=_BLOB),
        (
            "https://github.com/facebookarchive/C3D/blob/master/C3D-v1.0/examples/"
            "c3d_feature_extraction/sport1m_train16_128_mean.binaryproto?raw=true",
        ),
        page="https://github.com/facebookarchive/C3D",
    ),
    Asset(
        "train01_16_128_171_mean.binaryproto",
        "mean",
        "the UCF101 mean cube, which most ports use",
        Fingerprint(
            size=4_202_513,
            sha256="0024a9b130d3d565ec952c6508b2bc6d0c5798e35ce789a54e117583346eb406",
            magic=_BLOB,
        ),
        (
            "https://github.com/facebookarchive/C3D/blob/master/C3D-v1.0/examples/"
            "c3d_finetuning/train01_16_128_171_mean.binaryproto?raw=true",
        ),
        page="https://github.com/facebookarchive/C3D",
    ),
    Asset(
        "train01_16_128_171_mean.npy.bz2",
        "mean",
        "the UCF101 mean cube as a NumPy file, packed (axon-research/c3d-keras)",
        Fingerprint(
            size=3_110_286,
            sha256="de98ec99524d3a721d78937b8c703f2a72c9d87e67c3189bffa395416ce5bf97",
            magic=(b"BZh",),
        ),
        # ikeyasu/c3d-chainer, README.
        (
            "https://github.com/axon-research/c3d-keras/blob/master/data/"
            "train01_16_128_171_mean.npy.bz2?raw=true",
        ),
        page="https://github.com/axon-research/c3d-keras",
    ),
    Asset(
        "train01_16_128_171_mean.npy",
        "mean",
        "the UCF101 mean cube as a NumPy file; several versions exist, of float32 and of float64",
        Fingerprint(magic=(b"\x93NUMPY",)),
        page="https://github.com/axon-research/c3d-keras (data/, packed with bzip2)",
    ),
    Asset(
        "c3d_mean.npy",
        "mean",
        "the UCF101 mean cube as a NumPy file, channels last (adamcasson/c3d)",
        Fingerprint(md5="08a07d9761e76097985124d9e8b2fe34", magic=(b"\x93NUMPY",)),
        ("https://github.com/adamcasson/c3d/releases/download/v0.1/c3d_mean.npy",),
        page="https://github.com/adamcasson/c3d",
    ),
    Asset(
        "sports1M_classes.txt",
        "labels",
        "the names of the 487 Sports-1M classes",
        Fingerprint(
            size=6_503,
            md5="c102dd9508f3aa8e360494a8a0468ad9",
            sha256="0df67a130a1adb5b1c5177a070f3b347eb638ed05b3d16999514c50b548bedd9",
        ),
        ("https://github.com/adamcasson/c3d/releases/download/v0.1/sports1M_classes.txt",),
        page="https://github.com/adamcasson/c3d",
    ),
)

KNOWN_WEIGHTS = tuple(asset for asset in CATALOGUE if asset.kind == "weights")
MEAN_FILES = tuple(asset.name for asset in CATALOGUE if asset.kind == "mean")
LABELS_FILE = "sports1M_classes.txt"

DEFAULT_NAMES = (KNOWN_WEIGHTS[0].name, MEAN_FILES[0], LABELS_FILE)
"""The files of a full servable, which are fetched where none is named."""


def find_assets(names: Sequence[str], folder: Path = Path()) -> list[Asset]:
    """Return the assets of these names, in this order, without duplicates.

    Args:
        names: names as published.
        folder: the folder that the files are wanted in, for messages.

    Raises:
        UsageError: no published file has one of the names.
    """
    by_name = {asset.name: asset for asset in CATALOGUE}
    for name in names:
        if name not in by_name:
            path = folder / name
            found = "is there" if os.path.lexists(path) else "is not there; put it there"
            raise UsageError(
                f"{name!r} is no published file; known are {', '.join(by_name)}; a file of your "
                f"own cannot be fetched, and {path} {found}"
            )
    return [by_name[name] for name in dict.fromkeys(names)]


def check(asset: Asset, path: Path) -> tuple[bool, str]:
    """Check a file against an asset's fingerprint.

    Returns:
        Whether the file can be used, and the result of the check as text.

    Raises:
        OSError: the file cannot be read.
    """
    problem = asset.fingerprint.problem(path)
    return not problem, f"WRONG: {problem}" if problem else asset.verified


def check_folder(
    folder: Path, assets: Sequence[Asset] | None = None
) -> dict[Asset, tuple[bool, str]]:
    """Check the published files that are in a folder.

    Args:
        folder: the folder.
        assets: the assets to look for; all by default.

    Returns:
        The assets that are there, best first, each with the result of :func:`check`.

    Raises:
        OSError: a file cannot be read.
    """
    paths = {asset: folder / asset.name for asset in (CATALOGUE if assets is None else assets)}
    return {asset: check(asset, path) for asset, path in paths.items() if path.is_file()}


def usable_weights(folder: Path) -> dict[Asset, str]:
    """Return the usable weights in a folder, best first, each with the check's text.

    Raises:
        OSError: a file cannot be read.
    """
    states = check_folder(folder, KNOWN_WEIGHTS)
    return {asset: text for asset, (usable, text) in states.items() if usable}


def licence_note() -> str:
    """Return the note on the terms of use that is shown before a download."""
    return f"The published files are their authors', for {LICENCE.replace(', ', ' (')})."


def _hex_digest(file: BinaryIO, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=False)
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
