"""The answered rows of a video whose run ended early, for the run that continues it.

A video of many hours keeps what the server has answered in a file next to its output. The next run
decodes the video again, and sends only the clips that the file does not have. The file has no final
form: it begins with what the rows are of, and each answer is appended with its length and checksum,
so a process that is killed while it writes loses no more than the last answer.
"""

from __future__ import annotations

import errno
import json
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from c3d_client.core.errors import OutputError
from c3d_client.core.files import chunk_rows, row_chunks
from c3d_client.core.provenance import Provenance

# Seconds after which the rows of a video are kept, and the most that is lost. Measured on a local
# disk, keeping takes 0.03 ms a clip, and a video that ends before 0.07 ms in all and no file.
KEEP_AFTER_S = 60.0

_MARK = b"c3d-partial-1\n"
_RECORD = struct.Struct("<III")  # bytes of the content, CRC-32 of the content and of these bytes
_COUNT = struct.Struct("<II")  # clips, bytes of the JSON of the outputs

# The rows of some clips, float32 [n, ...] of each output of the model, by the output's name.
Rows: TypeAlias = Mapping[str, npt.NDArray[np.float32]]


class PartialMismatch(Exception):
    """The clips of the video are not those whose rows are kept."""


class PartialRows:
    """The rows of an unfinished video, in a file. Used by one thread.

    Args:
        path: the file, which may not exist; its folder is created with it.
        video: what the rows are of, besides the provenance: the video's fingerprint, stream and
            frame rate.
        note: called with a line about a file that cannot be used or written.

    Attributes:
        taken: number of clips whose rows came from an earlier run.
    """

    def __init__(
        self, path: Path, *, video: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        self.path = path
        self.taken = 0
        self._video = dict(video)
        self._note = note
        self._header = b""
        self._began = time.monotonic()
        self._source: IO[bytes] | None = None  # the file, while its rows are read
        self._target: IO[bytes] | None = None  # the file, while rows are added
        self._is_given_up = False
        self._end = 0  # where the last intact record ends
        self._starts: list[int] = []  # read and not taken yet
        self._rows: dict[str, npt.NDArray[np.float32]] = {}
        self._last = -1  # the last clip that was read

    def begin(self, provenance: Provenance) -> None:
        """Begin the video: use the rows of an earlier run, if they are of the same provenance.

        Args:
            provenance: that of the result, without the video. All of its fields must be equal,
                because it will be the provenance of each row.
        """
        self.close()
        self.taken = self._end = 0
        self._began = time.monotonic()
        self._starts, self._rows = [], {}
        self._last = -1
        content = json.dumps({"provenance": dict(provenance), "video": self._video}, sort_keys=True)
        self._header = _MARK + _record(content.encode())
        if self._is_given_up:
            return
        try:
            self._source = self.path.open("rb")
        except OSError:  # usually: there is none
            return
        try:
            found = self._source.read(len(_MARK))
            header = _read_record(self._source) if found == _MARK else None
        except OSError:
            header = None
        if header is None:
            self.discard("is damaged")
            return
        if header != content.encode():
            self.discard(_difference(header, provenance, self._video))
            return
        self._end = self._source.tell()

    def take(self, starts: Sequence[int]) -> Rows | None:
        """Return the rows of the next clips; None where not all of them are kept.

        After the first None there are no further rows.

        Args:
            starts: the index of each clip's first frame.

        Raises:
            PartialMismatch: rows of other clips are kept.
        """
        if self._source is None:
            return None
        count = len(starts)
        while len(self._starts) < count and self._read():
            pass
        if self._starts[:count] != list(starts[: len(self._starts)]):
            raise PartialMismatch
        if len(self._starts) < count:
            self._end_reading()
            return None
        taken = {name: rows[:count] for name, rows in self._rows.items()}
        self._rows = {name: rows[count:] for name, rows in self._rows.items()}
        self._starts = self._starts[count:]
        self.taken += count
        return taken

    def require_all_taken(self) -> None:
        """Check, when the video has ended, that no row is left.

        Raises:
            PartialMismatch: rows of further clips are kept.
        """
        if self._source is None:
            return
        while not self._starts and self._read():  # two processes may have added the last clips
            pass
        if self._starts:
            raise PartialMismatch

    def add(
        self,
        starts: Sequence[int],
        rows: Rows,
        *,
        count: int,
        earlier: Callable[[], Rows],
    ) -> None:
        """Keep the rows of an answer, if the video has lasted long enough.

        A full disk is noted and ends the keeping; the video goes on.

        Args:
            starts: the index of the first frame of each clip of the video, as far as it is cut.
            rows: the rows of the answer.
            count: the number of clips that are answered, those of this answer last.
            earlier: returns the rows of all these clips.

        Raises:
            OutputError: ``earlier`` raised it; the rows of the video are not complete then.
        """
        if self._is_given_up:
            return
        try:
            if self._target is None:
                self._end_reading()
                if self._end:
                    self._continue()
                elif time.monotonic() - self._began < KEEP_AFTER_S:
                    return
                else:
                    self._create(starts[:count], earlier())
                    return
            new = max(map(len, rows.values()))
            self._append(starts[count - new : count], rows)
        except OutputError:  # an OSError too, but not of this file
            raise
        # Another process has begun to keep the rows of this video, or has finished it.
        except (FileExistsError, FileNotFoundError):
            self._is_given_up = True
            self.close()
        except OSError as error:
            self._note(
                f"further rows of this video are not kept: {self.path} cannot be written "
                f"({error.strerror or error})"
            )
            self._is_given_up = True
            self.close()

    def discard(self, reason: str) -> None:
        """Delete the rows of an earlier run, and note why they are not used."""
        self._note(f"rows that an earlier run kept are not used: {self.path} {reason}")
        self.remove()

    def remove(self) -> None:
        """Delete the file, where there is one: its video is done, or its rows are of no use."""
        self.close()
        self._end = 0
        try:
            self.path.unlink(missing_ok=True)
        except OSError:  # it must not be read again
            self._is_given_up = True

    def close(self) -> None:
        """Close the file; it stays."""
        self._end_reading()
        if self._target is not None:
            self._target.close()
            self._target = None

    def _end_reading(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _read(self) -> bool:
        """Read one more record; return False at the end of the intact ones."""
        assert self._source is not None
        try:
            content = _read_record(self._source)
        except OSError:
            content = None
        if content is None:
            return False
        count, length = _COUNT.unpack_from(content)
        offset = _COUNT.size + length
        shapes = json.loads(content[_COUNT.size : offset])
        starts = np.frombuffer(content, "<i8", count, offset)
        offset += 8 * count
        is_new = starts > self._last  # two processes may have added the same clips
        for name, shape in shapes:
            rows = np.frombuffer(content, "<f4", count * math.prod(shape), offset)
            offset += rows.nbytes
            new = rows.reshape(count, *shape)[is_new]
            self._rows[name] = np.concatenate([self._rows[name], new]) if self._starts else new
        self._starts += starts[is_new].tolist()
        self._last = max(self._last, int(starts[-1]))
        self._end = self._source.tell()
        return True

    def _continue(self) -> None:
        """Open the file of an earlier run to add rows; what follows its intact records is cut."""
        with self.path.open("rb") as file:
            file.seek(self._end)
            while _read_record(file) is not None:  # another process may have added rows meanwhile
                self._end = file.tell()
        os.truncate(self.path, self._end)
        self._target = self.path.open("ab", buffering=0)

    def _create(self, starts: Sequence[int], rows: Rows) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Each record is added at the end: another process may continue the file meanwhile.
        self._target = open(self.path, "xb", buffering=0, opener=_append_opener)  # noqa: SIM115
        self._write(self._header)
        size = min(chunk_rows(values.shape[1:]) for values in rows.values())
        chunks = zip(*(row_chunks(values, size) for values in rows.values()), strict=True)
        for first, chunk in zip(range(0, len(starts), size), chunks, strict=True):
            self._append(starts[first : first + size], dict(zip(rows, chunk, strict=True)))

    def _append(self, starts: Sequence[int], rows: Rows) -> None:
        shapes = json.dumps([[name, values.shape[1:]] for name, values in rows.items()]).encode()
        parts = [_COUNT.pack(len(starts), len(shapes)), shapes, np.array(starts, "<i8").tobytes()]
        parts += [np.ascontiguousarray(values, "<f4").tobytes() for values in rows.values()]
        self._write(_record(b"".join(parts)))

    def _write(self, data: bytes) -> None:
        assert self._target is not None
        # One call for each record: of two processes, one does not write into the other's record.
        if self._target.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _append_opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, 0o666)


def _record(content: bytes) -> bytes:
    head = _RECORD.pack(len(content), zlib.crc32(content), 0)[:8]
    return head + struct.pack("<I", zlib.crc32(head)) + content


def _read_record(file: IO[bytes]) -> bytes | None:
    """Return the content of the next record; None where the file ends or is damaged there."""
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    size, content_crc, head_crc = _RECORD.unpack(head)
    if zlib.crc32(head[:8]) != head_crc:  # before so many bytes are read
        return None
    content = file.read(size)
    return content if len(content) == size and zlib.crc32(content) == content_crc else None


def _difference(header: bytes, provenance: Provenance, video: Mapping[str, Any]) -> str:
    """Return what the rows of a file differ in, for a note."""
    found = json.loads(header)
    if found.get("video") != video:
        return "is of another version, stream or frame rate of the video"
    kept = Provenance(found.get("provenance") or {})
    differences = [*kept.differences(provenance), *kept.notes(provenance)]
    phrases = [difference.phrase for difference in differences] or ["another version of the model"]
    return f"was made with {' and '.join(phrases)}"
