"""Files that are no video, weights or mean are named, with what to do; sound files never are."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from c3d_client import VideoDecodeError, decode_frames
from c3d_client.core.file_kinds import explain, explain_path, file_kind
from support.videos import noise, write_timed, write_video
from support.web_server import web_server

PAGE = b"\xef\xbb\xbf\n<!-- saved --><!DOCTYPE html><html><title>Drive &amp; Virus\nscan</title>"
S3_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Access Denied</Message></Error>"
)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 320000000\n"


def zip_bytes():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("video.mp4", b"content")
    return file.getvalue()


def tar_bytes():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("video.mp4"))
    return file.getvalue()


# Content that is no video, and the words for it. FFmpeg takes none of these as a video.
CONTENTS = {
    "git-lfs": (LFS, "it is a git-lfs pointer; run `git lfs pull`"),
    "git-annex": (
        b"/annex/objects/SHA256E-s1--0.mp4\n",
        "a git-annex pointer; run `git annex",
    ),
    "dvc": (b"outs:\n- md5: 0123\n  path: video.mp4\n", "a DVC pointer; run `dvc pull`"),
    "page": (PAGE, 'it is an HTML page ("Drive & Virus scan"); open its address in a browser'),
    "page in latin-1": (b"<html><title>caf\xe9</title><p>\xe9" * 9, 'an HTML page ("caf'),
    "page in utf-16": ("\ufeff<HTML><p>no".encode("utf-16-le"), "it is an HTML page; open"),
    "s3": (S3_ERROR, r"the error of a store or server (AccessDenied); check the address"),
    "json error": (json.dumps({"message": "Not Found"}).encode(), "the error of a server (Not F"),
    "json": (b'[{"a": 1}]', "it is JSON; give the video itself"),
    "xml": (b"<?xml version='1.0'?><annotation><object/></annotation>", "it is XML; give"),
    "zip": (zip_bytes(), "it is a zip archive; unpack it"),
    "tar": (tar_bytes(), "it is a tar archive; unpack it"),
    "gzip": (gzip.compress(b"x" * 999), "it is a gzip archive"),
    "bzip2": (bz2.compress(b"x" * 999), "it is a bzip2 archive"),
    "xz": (lzma.compress(b"x" * 999), "it is an xz archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(90), "it is a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(90), "it is a rar archive"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(90)), "it is a zstd archive"),
    "hls": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n", "it is an HLS playlist; save"),
    "m3u": (
        b"#EXTM3U\n#EXTINF:10,Title\na.mp4\n",
        "it is a playlist; give the files",
    ),
    "pls": (b"[playlist]\nFile1=a.mp4\n", "it is a playlist; give"),
    "dash": (b'<?xml version="1.0"?>\n<MPD><BaseURL>a</BaseURL></MPD>', "it is a DASH playlist"),
    "concat": (b"# mine\nfile 'a.mp4'\nfile 'b.mp4'\n", "a list of files for FFmpeg's concat"),
    "ffconcat": (b"ffconcat version 1.0\nfile 'a.mp4'\n", "a list of files for FFmpeg's concat"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "the description of a live stream"),
    "addresses": (b"https://host/a.mp4\nhttps://host/b.mp4\n", "it is a list of addresses"),
    "torrent": (b"d8:announce20:http://host/announcee", "it is a torrent; open it with a torrent"),
    "magnet": (b"magnet:?xt=urn:btih:0", "it is a magnet link"),
    "script": (b"#!/bin/sh\necho no\n", "it is a shell script"),
    "text": (b"no frames here\n" * 500, "it is text; give the video itself"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\n" + bytes(90), "it is a PDF document"),
    "office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "a document of an office program"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "it is an HDF5 file"),
    "npy": (b"\x93NUMPY\1\0" + bytes(90), "it is a NumPy array"),
    "parquet": (b"PAR1" + bytes(90), "it is a Parquet table"),
    "midi": (b"MThd\0\0\0\6" + bytes(90), "it is an audio file (MIDI)"),
    "openssl": (b"Salted__" + bytes(range(90)), "it is encrypted (OpenSSL); decrypt it first"),
    "age": (b"age-encryption.org/v1\n-> X25519 a\n", "it is encrypted (age)"),
    "armoured": (b"-----BEGIN PGP MESSAGE-----\n\nhQEM\n", "it is encrypted (GnuPG)"),
    "zeros": (
        bytes(200_000),
        "a file that begins with 65,536 zero bytes; such a download",
    ),
    "checkpoints": (
        b'model_checkpoint_path: "c3d.model"\n',
        "a list of TensorFlow checkpoints",
    ),
}
NAMED = {
    "page.mp4.gpg": (b"\x8c\x0d\x04\x09\x03\x08" + bytes(range(99)), "it is encrypted (GnuPG)"),
    "c3d.data-00000-of-00001": (bytes(range(256)) * 9, "it is part of a TensorFlow checkpoint"),
    "video.mp4.part": (b"\1\2\3" * 99, "it is an unfinished download by its name (.part); finish"),
    "video.mp4.crdownload": (b"\1\2\3" * 99, "it is an unfinished download by its name (.crdown"),
}


def message(path):
    with pytest.raises(VideoDecodeError) as caught:
        list(decode_frames(path))
    assert caught.type is VideoDecodeError  # the status stays `corrupt`
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)
    return caught.value.reason


class TestVideos:
    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", "", ".ts", ".h264"])
    def test_other_content_under_a_videos_name_is_named(self, tmp_path, suffix):
        for case, (content, words) in CONTENTS.items():
            path = tmp_path / f"video{suffix}"
            path.write_bytes(content)
            reason = message(path)
            if case == "text" and "is text, not a video" in reason:
                continue
            assert words in reason, case
            assert "Invalid data" not in reason, case

    def test_names_of_unfinished_and_encrypted_files(self, tmp_path):
        for name, (content, words) in NAMED.items():
            path = tmp_path / name
            path.write_bytes(content)
            assert f"cannot be opened as a video: {words}" in message(path), name

    def test_unfinished_download_that_begins_well(self, tmp_path):
        whole = write_video(tmp_path / "whole.mkv", 60, draw=noise)
        path = tmp_path / "video.mkv.part"
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        reason = message(path)
        assert "is cut short" in reason
        assert reason.endswith(
            ": it is an unfinished download by its name (.part); finish the download, and give the "
            "file that it becomes"
        )

    def test_animated_webp(self, tmp_path):
        path = write_timed(
            tmp_path / "video.webp", range(0, 400, 40), codec="libwebp_anim", container="webp"
        )
        assert message(path).startswith(
            "cannot be decoded: it is an animated WebP; FFmpeg does not"
        )

    @pytest.mark.parametrize(
        ("name", "codec", "container"),
        [
            ("song.mp3", "libmp3lame", "mp3"),
            ("song.wav", "pcm_s16le", "wav"),
            ("song.flac", "flac", "flac"),
            ("song.ogg", "libopus", "ogg"),
            ("song.m4a", "aac", "ipod"),
            ("song.mka", "libopus", "matroska"),
            ("song.mp4", "aac", "mp4"),
            ("song.aac", "aac", "adts"),
            ("song.aiff", "pcm_s16be", "aiff"),
        ],
    )
    def test_audio_files(self, tmp_path, name, codec, container):
        path = tmp_path / name
        with av.open(str(path), "w", format=container) as output:
            stream = output.add_stream(codec, rate=48000, layout="mono")
            for start in range(0, 9600, 960):
                sound = av.AudioFrame.from_ndarray(
                    np.zeros((1, 960), np.int16), format="s16", layout="mono"
                )
                sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
                output.mux(stream.encode(sound))
            output.mux(stream.encode())
        reason = message(path)
        assert reason.startswith("has no video stream (it holds: audio ")
        assert "it is an audio file" in reason
        assert reason.endswith("; give the video itself")

    @pytest.mark.parametrize(
        "flags", ["", "faststart", "frag_keyframe+empty_moov"], ids=["end", "start", "fragments"]
    )
    def test_mp4_with_common_encryption(self, tmp_path, flags):
        key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0f" * 16}
        options = {**key, "encryption_kid": "a7" * 16, **({"movflags": flags} if flags else {})}
        path = write_video(tmp_path / "a.mp4", 60, draw=noise, container_options=options)
        assert "it is encrypted (MP4, DRM or Common Encryption); decrypt it first" in message(path)
        with open(path, "rb") as file, pytest.raises(VideoDecodeError, match="it is encrypted"):
            list(decode_frames(file))

    def test_matroska_with_encrypted_tracks(self, tmp_path):
        for name, codec in (("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")):
            path = write_video(tmp_path / name, 10, codec=codec, draw=noise)
            path.write_bytes(encrypted_matroska(path.read_bytes()))
            assert "it is encrypted (Matroska or WebM)" in message(path), name

    def test_scrambled_transport_stream(self, tmp_path):
        path = write_video(tmp_path / "a.ts", 30, codec="mpeg2video", draw=noise)
        packets = bytearray(path.read_bytes())
        for start in range(0, len(packets), 188):
            # The tables stay readable, the payload of the video does not.
            if int.from_bytes(packets[start + 1 : start + 3], "big") & 0x1FFF == 0x100:
                packets[start + 3] |= 0xC0
                for position in range(start + 4, start + 188):
                    packets[position] ^= 0x5A
        path.write_bytes(packets)
        assert "it is encrypted (a scrambled transport stream)" in message(path)

    def test_windows_media_drm(self, tmp_path):
        path = write_video(tmp_path / "a.wmv", 10, codec="wmv2", draw=noise)
        content = path.read_bytes()
        guid = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
        size, count = struct.unpack_from("<QI", content, 16)
        header = content[:16] + struct.pack("<QI", size + 24, count + 1) + content[28:30]
        data = content[size:]
        path.write_bytes(
            header + guid + struct.pack("<Q", 24) + content[30:size] + scrambled(data, start=60)
        )
        assert "it is encrypted (Windows Media DRM)" in message(path)

    def test_damage_further_back_is_not_explained_by_the_first_bytes(self, tmp_path):
        path = write_timed(
            tmp_path / "a.mjpeg", range(20), codec="mjpeg", pix_fmt="yuvj420p", container="mjpeg"
        )
        assert path.read_bytes()[:3] == b"\xff\xd8\xff"
        assert len(list(decode_frames(path))) == 20
        cut = path.read_bytes()
        path.write_bytes(cut[: len(cut) * 3 // 4])
        try:
            list(decode_frames(path))
        except VideoDecodeError as error:
            assert "it is" not in error.reason  # noqa: PT017

    def test_unreadable_and_missing_files_keep_their_words(self, tmp_path):
        (tmp_path / "empty.mp4").touch()
        assert message(tmp_path / "empty.mp4") == "is empty (0 bytes)"


class TestRemote:
    @pytest.mark.parametrize(
        ("content", "words"), [(PAGE, "it is an HTML page"), (S3_ERROR, "(AccessDenied)")]
    )
    def test_page_and_error_that_a_server_sends_as_a_video(self, monkeypatch, content, words):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with web_server() as server:
            server.files["/video.mp4"] = content
            with pytest.raises(VideoDecodeError) as caught:
                list(decode_frames(f"{server.url}/video.mp4"))
            assert caught.type is VideoDecodeError
            assert words in str(caught.value)


class TestExplain:
    def test_words_name_what_was_wanted(self):
        assert explain(LFS, wanted="weight file") == (
            "it is a git-lfs pointer; run `git lfs pull` in its repository, or download the weight "
            "file itself"
        )

    def test_text_and_json_explain_nothing_where_text_is_expected(self):
        for content in (b"tennis\nbasketball\n", b'{"uri": "a.mp4"}\n'):
            assert explain(content, wanted="manifest")
            assert explain(content, wanted="manifest", expects_text=True) is None
        assert explain(PAGE, wanted="manifest", expects_text=True)

    def test_pictures(self):
        for start, words in (
            (b"8BPS\0\1", "a Photoshop (PSD) picture; give a video"),
            (b"\xff\xd8\xff\xe0", "a JPEG picture"),
            (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
            (b"\0\0\0\x18ftypheic", "a HEIC picture"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP picture"),
        ):
            assert words in explain(start + bytes(50), wanted="video")

    def test_folders_and_pipes(self, tmp_path):
        assert "it is a folder; give the weight file" in explain_path(
            tmp_path, wanted="weight file"
        )
        (tmp_path / "saved_model.pb").touch()
        assert "the folder of a SavedModel" in explain_path(tmp_path, wanted="weight file")
        assert explain_path(tmp_path / "absent", wanted="video") is None
        assert explain_path("/dev/null", wanted="video") is None

    @pytest.mark.long
    def test_random_bytes_and_hostile_text_explain_nothing_or_something(self):
        for seed in range(200):
            file_kind(np.random.default_rng(seed).bytes(1000))
        for text in ("<!--" * 16_000, "#\n" * 30_000, "{" * 60_000, "<title>" * 9_000):
            kind = file_kind(text.encode())
            assert kind is None or "\n" not in kind.text("video")
        hostile = b"<html><title>{wanted} {0} \x1b[31m" + b"x" * 5000 + b"</title>"
        words = explain(hostile, wanted="video")
        assert "{wanted} {0}" in words
        assert "\x1b" not in words
        assert len(words) < 300


def scrambled(content, *, start):
    """Change the bytes from a position on, as far as encryption would."""
    return content[:start] + bytes(byte ^ 0x5A for byte in content[start:])


def encrypted_matroska(content):
    """Return a Matroska file with a ContentEncryption in its track, and with changed pictures."""
    segment = content.index(b"\x18\x53\x80\x67")
    # Not the index's mention of the tracks, which comes before them.
    tracks = content.rindex(b"\x16\x54\xae\x6b", 0, content.index(b"\x1f\x43\xb6\x75"))
    entry = tracks + 4 + 8 - (content[tracks + 4].bit_length() - 1)
    if content[entry] == 0xBF:  # a checksum
        entry += 6
    assert content[entry] == 0xAE
    encryption = b"\x50\x35\x84\x47\xe1\x81\x05"  # ContentEncAlgo 5, AES
    encoding = b"\x50\x31\x81\x00\x50\x32\x81\x01\x50\x33\x81\x01" + encryption
    inner = b"\x62\x40" + bytes([0x80 | len(encoding)]) + encoding
    element = b"\x6d\x80" + bytes([0x80 | len(inner)]) + inner
    changed = bytearray(content)
    for position in (entry + 1, tracks + 4, segment + 4):
        length = 8 - (changed[position].bit_length() - 1)
        value = int.from_bytes(changed[position : position + length], "big")
        value += len(element)
        changed[position : position + length] = value.to_bytes(length, "big")
    length = 8 - (changed[entry + 1].bit_length() - 1)
    size = int.from_bytes(changed[entry + 1 : entry + 1 + length], "big") - (1 << (7 * length))
    end = entry + 1 + length + size - len(element)
    whole = bytes(changed[:end]) + element + bytes(changed[end:])
    return scrambled(whole, start=whole.index(b"\x1f\x43\xb6\x75") + 30)
