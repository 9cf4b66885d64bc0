"""What a file is by its first bytes, in words, for messages about files that cannot be used.

A download often is something other than its name: a page that asks to sign in, an error of an
object store, a git-lfs pointer, an archive. :func:`explain` names it and what to do. It is
called after a reader has failed; it never decides whether a file can be read.
"""

from __future__ import annotations

import enum
import html
import os
import re
import stat
from dataclasses import dataclass
from typing import BinaryIO

from c3d_client.core.text import one_line

START_BYTES = 1 << 16
"""How many of a file's first bytes are looked at; fewer are enough for most kinds."""

# The footer of leveldb's tables ends with this number; TensorFlow's checkpoints are such tables.
TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")

_TEXT_BYTES = 2048
_TITLE_LENGTH = 60
_MOST_BOXES = 64


class Group(enum.Enum):
    """Kinds of files that readers treat alike."""

    OTHER = "a file of another purpose"
    TEXT = "text, JSON or addresses as such, which may be a list that a reader expects"
    PICTURE = "one picture, which FFmpeg decodes as a video of one frame"
    HIDDEN = "encrypted or unfinished: the content may be what was expected, and may begin well"


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Args:
        name: a noun phrase with its article, such as ``a zip archive``.
        advice: what to do, in the imperative; ``{wanted}`` is replaced by what the reader expected.
        group: how readers treat it.
    """

    name: str
    advice: str
    group: Group = Group.OTHER

    def text(self, wanted: str) -> str:
        """Return ``it is NAME; ADVICE``.

        Args:
            wanted: what the reader expected, without an article, such as ``video``.
        """
        return f"it is {self.name}; {self.advice.format(wanted=wanted)}"


def explain(
    start: bytes,
    *,
    wanted: str,
    name: str = "",
    size: int | None = None,
    end: bytes = b"",
    expects_text: bool = False,
) -> str | None:
    """Return what a file is and what to do, for a message; None where its bytes show nothing.

    Args:
        start: the file's first bytes, up to :data:`START_BYTES`.
        wanted: what the reader expected, without an article, such as ``video``.
        name: the file's name; its suffix shows an unfinished download.
        size: the file's size in bytes, where it is known.
        end: the file's last bytes, eight or more, where they are known.
        expects_text: the reader expected text, so that text and JSON as such explain nothing.
    """
    kind = file_kind(start, name=name, size=size, end=end)
    if kind is None or (expects_text and kind.group is Group.TEXT):
        return None
    return kind.text(wanted)


def explain_path(
    path: str | os.PathLike[str], *, wanted: str, expects_text: bool = False
) -> str | None:
    """Return what the file at a path is and what to do; None where nothing shows it.

    Never raises: a file that cannot be read is not explained. Arguments as :func:`explain`.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _folder(path).text(wanted)
        if not stat.S_ISREG(status.st_mode):
            return None
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
            file.seek(max(0, status.st_size - len(TABLE_MAGIC)))
            end = file.read(len(TABLE_MAGIC))
    except (OSError, ValueError):
        return None
    name, size = os.fspath(path), status.st_size
    return explain(start, wanted=wanted, name=name, size=size, end=end, expects_text=expects_text)


def file_kind(
    start: bytes, *, name: str = "", size: int | None = None, end: bytes = b""
) -> FileKind | None:
    """Return the kind of a file, or None. Arguments as :func:`explain`."""
    name = os.path.basename(name).lower()
    if size == 0:
        return FileKind("empty (0 bytes)", "download it again")
    if start and not start.strip(b"\0"):
        return FileKind(
            f"a file that begins with {len(start):,} zero bytes",
            "such a download broke off: download it again",
        )
    return (
        _encrypted(start, name)
        or _pointer(start)
        or _by_signature(start)
        or _container(start)
        or _checkpoint(start, name, end)
        or _text(start)
        or _unfinished(name)
    )


def read_start(file: BinaryIO) -> bytes:
    """Return a file's first bytes, and those of its MP4 index where that is further back.

    The index (the box ``moov``) shows whether an MP4 is encrypted.

    Raises:
        OSError: the file cannot be read, or has no positions to go to.
    """
    file.seek(0)
    start = file.read(START_BYTES)
    if start[4:8] != b"ftyp" or b"moov" in start:
        return start
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if len(header) < 16 or size < 8:
            break
        if header[4:8] == b"moov":
            file.seek(position)
            return start + file.read(min(size, START_BYTES))
        position += size
    return start


_DOWNLOAD = "download the {wanted} itself"
_GIVE = "give the {wanted} itself"
_DECRYPT = "decrypt it first, with the key of its owner"
_STILL = "give a {wanted}"
_UNPACK = "unpack it and give what it holds"
_LIST = "give the files that it names"
_SAVE = "save the video, for example with `ffmpeg -i ADDRESS -c copy video.mp4`, and give that"


# For each group: the name, in which `{}` is replaced by a file's own; the advice; the first bytes.
_SIGNATURES: tuple[tuple[str, str, dict[bytes, str]], ...] = (
    (
        "{} archive",
        _UNPACK,
        {
            b"PK\x03\x04": "a zip",
            b"PK\x05\x06": "a zip",
            b"\x1f\x8b": "a gzip",
            b"BZh": "a bzip2",
            b"\xfd7zXZ\0": "an xz",
            b"7z\xbc\xaf\x27\x1c": "a 7z",
            b"Rar!\x1a\x07": "a rar",
            b"\x28\xb5\x2f\xfd": "a zstd",
            b"\x04\x22\x4d\x18": "an lz4",
            b"LZIP": "an lzip",
            b"\x1f\x9d": "a compress",
        },
    ),
    (
        "{} picture",
        _STILL,
        {
            b"\xff\xd8\xff": "a JPEG",
            b"\x89PNG\r\n\x1a\n": "a PNG",
            b"8BPS": "a Photoshop (PSD)",
            b"II*\0": "a TIFF",
            b"MM\0*": "a TIFF",
            b"\xff\x0a": "a JPEG XL",
            b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL",
        },
    ),
    (
        "an audio file ({})",
        _GIVE,
        {
            b"ID3": "MP3",
            b"\xff\xfa": "MP3",
            b"\xff\xfb": "MP3",
            b"\xff\xf3": "MP3",
            b"\xff\xf1": "AAC",
            b"\xff\xf9": "AAC",
            b"fLaC": "FLAC",
            b"#!AMR": "AMR",
            b"MThd": "MIDI",
            b"MAC ": "Monkey's Audio",
            b"wvpk": "WavPack",
        },
    ),
    (
        "encrypted ({})",
        _DECRYPT,
        {
            b"Salted__": "OpenSSL",
            b"age-encryption.org/": "age",
            b"-----BEGIN AGE ENCRYPTED FILE": "age",
            b"-----BEGIN PGP MESSAGE": "GnuPG",
            b"LUKS\xba\xbe": "LUKS",
        },
    ),
    (
        "{}",
        _GIVE,
        {
            b"%PDF-": "a PDF document",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a document of an office program",
            b"\x89HDF\r\n\x1a\n": "an HDF5 file",
            b"\x93NUMPY": "a NumPy array",
            b"PAR1": "a Parquet table",
            b"SQLite format 3\0": "an SQLite database",
            b"\x7fELF": "a program",
            b"MZ\x90\0": "a Windows program",
            b"FWS": "a Flash program",
            b"CWS": "a Flash program",
            b"ZWS": "a Flash program",
        },
    ),
)
_TAR, _TAR_OFFSET = b"ustar", 257

# Symmetric (tag 3) and public-key (tag 1) session keys, with which GnuPG's binary messages begin:
# the tag with the length's size, the length, the version.
_OPENPGP = re.compile(rb"\x8c[\x04\x0d\x0e\x2e]\x04[\x01-\x0d]|[\x84\x85](..|.)\x03", re.DOTALL)

_UNFINISHED_SUFFIXES = (
    *(".part", ".partial", ".crdownload", ".download", ".opdownload", ".unconfirmed"),
    *(".!ut", ".!qb", ".bc!", ".aria2", ".ytdl", ".filepart"),
)

_TORRENT = re.compile(rb"d\d{1,3}:(announce|comment|created by|creation date|info|nodes)")


def _unfinished(name: str) -> FileKind | None:
    for suffix in _UNFINISHED_SUFFIXES:
        if name.endswith(suffix):
            return FileKind(
                f"an unfinished download by its name ({suffix})",
                "finish the download, and give the file that it becomes",
                group=Group.HIDDEN,
            )
    return None


def _by_signature(start: bytes) -> FileKind | None:
    if start.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in start[:_TEXT_BYTES]:
        return FileKind("a document of an office program", _GIVE)
    for name, advice, words in _SIGNATURES:
        for magic, word in words.items():
            if start.startswith(magic):
                group = Group.PICTURE if advice == _STILL else Group.OTHER
                return FileKind(name.format(word), advice, group)
    if start.startswith(_TAR, _TAR_OFFSET):
        return FileKind("a tar archive", _UNPACK)
    if _TORRENT.match(start):
        return FileKind("a torrent", "open it with a torrent program, and give what it downloads")
    return None


def _encrypted(start: bytes, name: str) -> FileKind | None:
    """Return the kind of a container whose tracks are encrypted, or of an OpenPGP message."""
    scheme = ""
    if start[4:8] in (b"ftyp", b"styp", b"moov", b"moof") and re.search(
        # A sample entry of an encrypted track: its size, and its name in place of the codec's.
        rb"\0\0..(encv|drmi)\0{6}",
        start,
        re.DOTALL,
    ):
        scheme = "MP4, DRM or Common Encryption"
    # ContentEncodingType 1 in a ContentEncoding, with a ContentEncryption.
    elif start.startswith(b"\x1a\x45\xdf\xa3") and re.search(
        rb"\x6d\x80.{1,8}\x62\x40.{1,80}?\x50\x33\x81\x01", start, re.DOTALL
    ):
        scheme = "Matroska or WebM"
    # ASF's Content Encryption and Extended Content Encryption objects.
    elif start.startswith(_ASF_HEADER) and any(guid in start for guid in _ASF_ENCRYPTION):
        scheme = "Windows Media DRM"
    elif _is_scrambled(start):
        scheme = "a scrambled transport stream"
    elif _OPENPGP.match(start) and name.endswith((".gpg", ".pgp", ".enc")):
        scheme = "GnuPG"
    return FileKind(f"encrypted ({scheme})", _DECRYPT, group=Group.HIDDEN) if scheme else None


_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_ENCRYPTION = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)


def _is_scrambled(start: bytes) -> bool:
    """Return whether most packets of an MPEG transport stream have a scrambled payload."""
    for size, offset in ((188, 0), (192, 4), (204, 0)):
        packets = start[offset::size]
        if len(packets) > 4 and not packets.strip(b"\x47"):
            flags = start[offset + 3 :: size]
            scrambled = sum(bool(flag & 0xC0) for flag in flags)
            return 2 * scrambled > len(flags)
    return False


def _container(start: bytes) -> FileKind | None:
    """Return the kind of a container that holds no video that FFmpeg decodes."""
    if start.startswith(b"RIFF"):
        form = start[8:12]
        if form == b"WEBP":
            # VP8X's flags; ANIM is the chunk that an animation needs.
            if start[12:16] == b"VP8X" and start[20:21] and start[20] & 2:
                return FileKind(
                    "an animated WebP",
                    "FFmpeg does not decode it: convert it with another program, for example with "
                    "ImageMagick's `magick in.webp out.gif`",
                )
            return FileKind("a WebP picture", _STILL, Group.PICTURE)
        if form in (b"WAVE", b"RMID"):
            return FileKind(f"an audio file ({'WAV' if form == b'WAVE' else 'MIDI'})", _GIVE)
    if start.startswith(b"FORM") and start[8:12] in (b"AIFF", b"AIFC"):
        return FileKind("an audio file (AIFF)", _GIVE)
    if start.startswith(b"OggS"):
        pictures = (b"\x80theora", b"BBCD\0", b"\x01video\0", b"OVP80", b"KW-DIRAC")
        if not any(codec in start for codec in pictures):
            for codec, magic in (
                ("Opus", b"OpusHead"),
                ("Vorbis", b"\x01vorbis"),
                ("FLAC", b"\x7fFLAC"),
                ("Speex", b"Speex   "),
            ):
                if magic in start:
                    return FileKind(f"an audio file (Ogg {codec})", _GIVE)
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        if brand in (b"M4A ", b"M4B ", b"M4P "):
            return FileKind("an audio file (M4A)", _GIVE)
        if brand in (b"heic", b"heix", b"mif1", b"heim", b"heis"):
            return FileKind("a HEIC picture", _STILL, Group.PICTURE)
        if brand == b"avif":
            return FileKind("an AVIF picture", _STILL, Group.PICTURE)
    return None


def _checkpoint(start: bytes, name: str, end: bytes) -> FileKind | None:
    if end.endswith(TABLE_MAGIC) or re.search(r"\.data-\d{5}-of-\d{5}$", name):
        return FileKind(
            "part of a TensorFlow checkpoint",
            "c3d-export reads the checkpoints of C3D as weights: `c3d-export inspect --help`",
        )
    if start.startswith(b'model_checkpoint_path: "'):
        return FileKind("a list of TensorFlow checkpoints", "give one of the checkpoints it names")
    return None


def _pointer(start: bytes) -> FileKind | None:
    """Return the kind of a small text that a program replaces by a large file."""
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return FileKind(
            "a git-lfs pointer", "run `git lfs pull` in its repository, or " + _DOWNLOAD
        )
    if b"/annex/objects/" in start[:_TEXT_BYTES] and start[:1] in (b"/", b"."):
        return FileKind("a git-annex pointer", "run `git annex get` in its repository")
    if re.match(rb"(outs|md5|wdir|deps|frozen):", start) and b"md5: " in start[:_TEXT_BYTES]:
        return FileKind("a DVC pointer", "run `dvc pull` in its repository")
    return None


def _text(start: bytes) -> FileKind | None:
    text = _decoded(start)
    if text is None:
        return None
    # Comments and declarations may precede the first element of a page.
    body = re.sub(r"\A(\s|<!--.*?-->|<\?xml.*?\?>)+", "", text, flags=re.DOTALL)
    for recognise in (_markup, _playlist, _json):
        kind = recognise(body)
        if kind is not None:
            return kind
    if body.startswith("magnet:?"):
        return FileKind("a magnet link", "open it with a torrent program, and give what it saves")
    if body.startswith("#!"):
        return FileKind("a shell script", _GIVE)
    return FileKind("text", _GIVE, group=Group.TEXT)


def _decoded(start: bytes) -> str | None:
    """Return the start of a text; None where the bytes are no text in UTF-8 or UTF-16."""
    start = start[:START_BYTES]
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if start.startswith(mark):
            return start[2:].decode(encoding, "ignore")
    try:
        text = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # a character that the end of `start` cuts is no error
            # Pages in Latin-1 and other encodings.
            if not re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
                return None
            text = start.decode("latin-1")
        else:
            text = start[: error.start].decode("utf-8")
    controls = sum(ord(c) < 32 and c not in "\t\n\r\f\x1b" for c in text[:_TEXT_BYTES])
    return text if text.strip() and not controls else None


def _markup(body: str) -> FileKind | None:
    head = body[:_TEXT_BYTES].lower()
    if re.match(r"<(!doctype html|html|head|body|title|meta|script)\b", head):
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        shown = one_line(html.unescape(title[1]))[:_TITLE_LENGTH].strip() if title else ""
        return FileKind(
            f'an HTML page ("{shown}")' if shown else "an HTML page",
            "open its address in a browser, which may ask to sign in or to confirm, and "
            + _DOWNLOAD,
        )
    if head.startswith(("<error", "<errorresponse", "<html><error")):
        code = re.search(r"<code>\s*([^<]{1,60}?)\s*</code>", body, re.IGNORECASE)
        return FileKind(
            f"the error of a store or server{f' ({one_line(code[1])})' if code else ''}",
            "check the address and the permission, and " + _DOWNLOAD,
        )
    if head.startswith("<mpd"):
        return FileKind("a DASH playlist", _SAVE)
    if head.startswith(("<asx", "<playlist", "<smil", "<rss", "<wvx")):
        return FileKind("a playlist", _LIST)
    if head.startswith("<svg"):
        return FileKind("an SVG picture", _STILL, Group.PICTURE)
    return FileKind("XML", _GIVE) if re.match(r"<[a-z!]", head) else None


def _playlist(body: str) -> FileKind | None:
    if body.startswith("#EXTM3U"):
        if "#EXT-X-" in body:
            return FileKind("an HLS playlist", _SAVE)
        return FileKind("a playlist", _LIST)
    if re.match(r"ffconcat version|(#[^\n]*\n|\s)*file\s+(['\"/.]|\S+\.\w+\s*(\n|\Z))", body):
        return FileKind("a list of files for FFmpeg's concat", _LIST)
    if re.match(r"\[(playlist|reference)\]", body, re.IGNORECASE):
        return FileKind("a playlist", _LIST)
    if re.match(r"v=0\r?\no=", body):
        return FileKind("the description of a live stream (SDP)", _SAVE)
    if re.match(r"(https?|s3|gs|rtsp|ftp)://\S+\s*(\n|\Z)", body):
        return FileKind(
            "a list of addresses", "give each address, or the list on standard input", Group.TEXT
        )
    return None


def _json(body: str) -> FileKind | None:
    if not re.match(r"[{\[]\s*[\"{\[}\]]", body):
        return None
    message = re.search(
        r'"(?:message|error|error_description|detail|reason)"\s*:\s*"([^"\\]{1,80})"', body
    )
    if message:
        return FileKind(
            f"the error of a server ({one_line(message[1])})",
            "check the address and the permission, and " + _DOWNLOAD,
        )
    return FileKind("JSON", _GIVE, group=Group.TEXT)


def _folder(path: str | os.PathLike[str]) -> FileKind:
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return FileKind("the folder of a SavedModel", "give the weights that it was made from")
    return FileKind("a folder", "give the {wanted} in it")
