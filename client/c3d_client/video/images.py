"""Images that are the frames of a video: which files, in which order, and whether each is whole.

A folder or a pattern names the images of one video. Their names have the same text and differ in
one number, which counts the frames without a gap. So a folder in which a copy stopped, or which
holds pictures of several kinds (``img_00001.jpg`` and ``flow_x_00001.jpg``), is an error and not a
shorter or another video.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from c3d_client.core.errors import VideoDecodeError, VideoUnreadableError

# The images of data sets that OpenCV reads. A .gif counts as a video.
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)

_GLOB = re.compile(r"[*?[]")
_COUNTER = re.compile(r"%(?:0([1-9][0-9]?))?d")
_NUMBER = re.compile("([0-9]+)")
_MOST_SHOWN = 3


@dataclass(frozen=True)
class ImageSequence:
    """The images of one video, as they are on disk.

    Args:
        folder: the folder that holds them.
        names: their names, in order.
        listing_sha256: SHA-256 of their names, sizes and modification times.
    """

    folder: str
    names: tuple[str, ...]
    listing_sha256: str

    def fingerprint(self) -> dict[str, str | int]:
        """Return the properties that show whether the images have changed, without reading them."""
        return {"images": len(self.names), "listing_sha256": self.listing_sha256}


def is_image(name: str) -> bool:
    """Whether the name of a file has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image_pattern(name: str) -> bool:
    """Whether a file's name is a pattern of images: ``%06d.jpg``, ``*.png``.

    >>> is_image_pattern("%06d.jpg"), is_image_pattern("*.png"), is_image_pattern("v_*")
    (True, True, False)
    """
    return is_image(name) and bool(_COUNTER.search(name) or _GLOB.search(name))


def names_images(path: str) -> bool:
    """Whether a path on this machine names images: a folder, or a pattern that is no file."""
    if os.path.isdir(path):
        return True
    return not os.path.lexists(path) and is_image_pattern(os.path.basename(path))


def image_matcher(pattern: str) -> Callable[[str], bool]:
    """Return whether a name matches a pattern, as a function of the name.

    Args:
        pattern: with one counter as in C's printf (``%06d``, ``%d``), or with ``*``, ``?`` and
            ``[a-z]`` as in a shell.
    """
    counter = _COUNTER.search(pattern)
    if counter is None:
        return lambda name: fnmatch.fnmatchcase(name, pattern)
    width = int(counter[1] or 1)
    longer = f"[1-9][0-9]{{{width},}}"  # printf cuts no number off
    number = f"(?:[0-9]{{{width}}}|{longer})"
    before, after = pattern[: counter.start()], pattern[counter.end() :]
    expression = re.compile(re.escape(before) + number + re.escape(after))
    return lambda name: expression.fullmatch(name) is not None


def find_images(path: str) -> ImageSequence:
    """Return the images that a folder or a pattern names, in the order of their numbers.

    Of a folder, the files with :data:`IMAGE_SUFFIXES`; of a pattern, the files that match. Hidden
    files are left out.

    Raises:
        VideoUnreadableError: there are no images, or the folder cannot be read.
        VideoDecodeError: the images are not one sequence: a number is missing or there twice, or
            their names differ in more than one number.
    """
    folder, pattern = path, ""
    matches: Callable[[str], bool] = is_image
    if not os.path.isdir(path):
        folder, pattern = os.path.split(path)
        matches = image_matcher(pattern)
    found: dict[str, os.stat_result] = {}
    top = folder or "."
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and matches(entry.name) and not entry.is_dir():
                    found[entry.name] = entry.stat()
    except OSError as error:
        if not os.path.isdir(top):
            raise VideoUnreadableError(path, f"no such file, and no folder {top}") from error
        name = "" if error.filename in (None, top) else f"{os.path.basename(error.filename)}: "
        raise VideoUnreadableError(path, f"{name}cannot be read ({error.strerror})") from error
    if not found:
        raise VideoUnreadableError(path, _nothing_found(pattern))
    names = _in_order(found, path)
    listing = hashlib.sha256()
    for name in names:
        status = found[name]
        listing.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return ImageSequence(folder, tuple(names), listing.hexdigest())


def image_problem(data: bytes) -> str:
    """Return why an image is not whole; empty where its bytes show nothing.

    OpenCV fills the rest of a picture that ends early with grey, and returns it. JPEG has an end
    mark, PNG a checksum for each part, and BMP and WebP record their sizes.
    """
    if not data:
        return "is empty (0 bytes)"
    if data.startswith(b"\xff\xd8"):
        return _jpeg_problem(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_problem(data)
    recorded = 0
    if data.startswith(b"BM"):
        recorded = int.from_bytes(data[2:6], "little")
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        recorded = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < recorded:
        return f"is cut short: it records {recorded:,} bytes and ends after {len(data):,}"
    return ""


def _jpeg_problem(data: bytes) -> str:
    # An APP1 segment may hold a whole JPEG with an end mark, so segments are passed over. In the
    # scan after them a byte FF of a picture is followed by 00.
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        kind = data[at + 1]
        if kind == 0xDA:
            if data.find(b"\xff\xd9", at) >= 0:
                return ""
            break
        # Fill bytes, and marks without a length.
        if kind == 0xFF or kind == 0x01 or 0xD0 <= kind <= 0xD7:
            at += 1 if kind == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return f"is cut short: it has no end mark in {len(data):,} bytes"


def _png_problem(data: bytes) -> str:
    view = memoryview(data)
    at = 8
    while at + 12 <= len(view):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(view):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"is damaged: the checksum at byte {end - 4:,} is wrong"
        if bytes(view[at + 4 : at + 8]) == b"IEND":
            return ""
        at = end
    return f"is cut short: it has no end mark in {len(data):,} bytes"


def _nothing_found(pattern: str) -> str:
    if pattern:
        return "no such file, and no image matches the pattern"
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return (
        f"is a folder without images ({suffixes}); name a video, a folder of images, or the videos "
        "in the folder"
    )


def _in_order(names: Iterable[str], path: str) -> list[str]:
    """Return the names in the order of the number in which they differ.

    Raises:
        VideoDecodeError: they differ in other text or in several numbers, or a number is missing.
    """

    def fail(reason: str) -> NoReturn:
        raise VideoDecodeError(path, reason)

    parts = {name: _NUMBER.split(name) for name in sorted(names)}
    texts = sorted({"*".join(part[::2]) for part in parts.values()})
    if len(texts) > 1:
        more = ", ..." if len(texts) > _MOST_SHOWN else ""
        fail(
            f"holds images of several kinds ({', '.join(texts[:_MOST_SHOWN])}{more}); "
            "name those of one kind with a pattern, such as img_%05d.jpg"
        )
    numbers = {name: [int(digits) for digits in part[1::2]] for name, part in parts.items()}
    columns = [set(column) for column in zip(*numbers.values(), strict=True)]
    varying = [index for index, values in enumerate(columns) if len(values) > 1]
    if len(varying) > 1:
        first, *_, last = numbers
        fail(
            f"holds images that differ in more than one number, from {first} to {last}; "
            "name those of one video with a pattern"
        )
    index = varying[0] if varying else 0
    ordered = sorted(numbers, key=lambda name: numbers[name][index : index + 1])
    for before, after in pairwise(ordered):
        step = numbers[after][index] - numbers[before][index]
        if step == 0:
            fail(f"{before} and {after} have the same number; remove one of them")
        if step > 1:
            count = numbers[ordered[-1]][index] - numbers[ordered[0]][index] + 1
            missing = count - len(ordered)
            fail(
                f"{missing} of {count} images {'is' if missing == 1 else 'are'} missing, the first "
                f"between {before} and {after}; complete them, or rename them where the numbers do "
                "not count frames"
            )
    return ordered
