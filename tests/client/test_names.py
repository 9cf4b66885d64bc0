"""Names of any bytes: escaped in every text, raw where files are opened, one outcome for each.

And names of outputs by a pattern, ``--name``.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import OutputError, UsageError, VideoDecodeError
from c3d_client.core.files import ignores_case
from c3d_client.core.text import escape_bytes, escape_controls, one_line
from c3d_client.core.uri import Uri
from c3d_client.job import ExtractJob, Failure, read_failures, write_failures
from c3d_client.outputs import (
    FORMATS,
    convert,
    output_path,
    pattern_format,
    read_features,
    write_features,
)
from c3d_client.video.sources import Scan, Source, expand, fingerprint
from support.errors import error_of
from support.processes import LONG_S
from support.sample_features import sample_features
from support.videos import write_sound, write_video

C3D = Path(sys.executable).with_name("c3d")

# Each name as bytes, and how one line of text shows it.
GOOD = {
    b"gut\xe9.mp4": r"gut\xe9.mp4",
    b"d\xff/in\xe9.mp4": r"d\xff/in\xe9.mp4",
    b"two\nlines.mp4": r"two\nlines.mp4",
    b"tab\there.mp4": r"tab\there.mp4",
    b"return\rhere.mp4": r"return\rhere.mp4",
    b"red\x1b[31m.mp4": r"red\x1b[31m.mp4",
    b"quote\"s'.mp4": "quote\"s'.mp4",
    b"100%41.mp4": "100%41.mp4",
    b"#1.mp4": "#1.mp4",
    b"what?.mp4": "what?.mp4",
    b"-x.mp4": "-x.mp4",
    b" space .mp4": " space .mp4",
    b"back\\slash.mp4": "back\\slash.mp4",
    b"$x$ {y}.mp4": "$x$ {y}.mp4",
    b"a:b.mp4": "a:b.mp4",
    "turned\u202e4pm.mp4".encode(): r"turned\u202e4pm.mp4",
    "caf\u00e9.mp4".encode(): "caf\u00e9.mp4",
    "cafe\u0301.mp4".encode(): "cafe\u0301.mp4",
    "\U0001f600.mp4".encode(): "\U0001f600.mp4",
    b"n" * 251 + b".mp4": "n" * 251 + ".mp4",
}
DAMAGED = {
    b"caf\xe9.mp4": r"caf\xe9.mp4",
    b"also_damaged.mp4": "also_damaged.mp4",
    b"lost\nline.mp4": r"lost\nline.mp4",
    b'lone",quote\r.mp4': r'lone",quote\r.mp4',
}
OTHERS = {b"1.bin": b"x", b"2.BIN": b"x", b"notes.txt": b"x", b"x.o\xffg": b"x"}
LEFT_OUT = r"c3d: 4 files left out: 2 .bin, 1 .o\xffg, 1 .txt; --any takes all"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of such names, in a folder that has such a name too."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"v\xeddeos")
    folder.mkdir()
    data = write_video(folder.parent / "sample.mp4", 17, width=64, height=48).read_bytes()
    contents = dict.fromkeys(GOOD, data) | dict.fromkeys(DAMAGED, data[:900]) | OTHERS
    for name, content in contents.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


def c3d(*arguments, cwd, server, **environment) -> tuple[int, list[str], list[str]]:
    """Run the command; return its exit code and the lines of its two streams, which are UTF-8."""
    done = subprocess.run(
        [C3D, *map(str, arguments), "--server", server.target],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return (
        done.returncode,
        done.stdout.decode(encoding).split("\n")[:-1],
        done.stderr.decode(encoding).split("\n")[:-1],
    )


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "failures.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class TestCommands:
    @pytest.mark.long
    def test_every_name_has_its_features_or_a_failure_and_the_next_run_skips_it(
        self, videos, narrow_server, tmp_path
    ):
        run = lambda: c3d(  # noqa: E731
            "extract", videos.name, "--out", tmp_path, cwd=videos.parent, server=narrow_server
        )
        shown = escape_controls(videos.name)
        code, _, lines = run()
        assert code == 1
        failures = [line for line in lines if "is cut short" in line]
        assert sorted(line.partition(": is cut short")[0] for line in failures) == sorted(
            f"c3d: {name}" for name in DAMAGED.values()
        )
        assert all(line.isprintable() for line in lines)
        assert lines[-2].startswith(f"c3d: {len(GOOD)} videos done, ")
        assert lines[-2].endswith(f"; 4 failed, listed in {tmp_path}/failures.csv")
        assert lines[-1] == LEFT_OUT
        rows = listed(tmp_path)
        expected = {escape_bytes(os.fsdecode(name)): text for name, text in DAMAGED.items()}
        assert [row["video"] for row in rows] == sorted(expected)
        for row in rows:
            assert row["uri"] == f"{shown}/{row['video']}"
            assert row["error"].startswith(f"{shown}/{expected[row['video']]}: is cut short")
        outputs = {
            name: output_path(tmp_path, os.fsdecode(name), "npz").stat().st_mtime_ns
            for name in GOOD
        }
        # Each output has the raw bytes of its video's name, unless that is too long.
        assert {name + b".npz" for name in GOOD if len(name) < 250} < {
            os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.npz")
        }

        code, _, lines = run()
        assert code == 1
        assert f"0 videos done, 0 clips; {len(GOOD)} skipped, done before; 4 failed" in lines[-2]
        known = [
            line for line in lines if line.endswith("(failed before; --retry-failed tries again)")
        ]
        assert len(known) == len(DAMAGED)
        for name, mtime_ns in outputs.items():
            path = output_path(tmp_path, os.fsdecode(name), "npz")
            assert path.stat().st_mtime_ns == mtime_ns, name
            source = read_features(path).provenance["video"]["source"]
            assert source == escape_bytes(f"{videos.name}/{os.fsdecode(name)}")
        assert listed(tmp_path) == rows

    @pytest.mark.long
    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_classes_are_printed_whatever_the_names_and_the_terminal(
        self, videos, narrow_server, tmp_path, encoding
    ):
        code, stdout, stderr = c3d(
            *("classify", ".", "--top", 1, "--html", tmp_path / "pages"),
            cwd=videos,
            server=narrow_server,
            PYTHONIOENCODING=encoding,
        )
        assert code == 1
        named = [line.rpartition(": ")[0] for line in stdout if line.endswith(" clips")]
        texts = [f"./{text}" for text in GOOD.values()]
        assert sorted(named) == sorted(
            text.encode(encoding, "backslashreplace").decode(encoding) for text in texts
        )
        assert stderr[-2:] == [f"c3d: 4 of {len(GOOD) + 4} videos failed", LEFT_OUT]
        assert len(list((tmp_path / "pages").rglob("*.html"))) == len(GOOD)
        page = (tmp_path / "pages" / os.fsdecode(b"gut\xe9.mp4.html")).read_text("utf-8")
        assert r"<title>gut\xe9.mp4" in page

    @pytest.mark.long
    def test_json_and_csv_hold_every_name(self, videos, narrow_server):
        names = [escape_bytes(os.fsdecode(name)) for name in GOOD]
        _, lines, _ = c3d("classify", ".", "--json", "--top", 1, cwd=videos, server=narrow_server)
        documents = list(map(json.loads, lines))
        assert sorted(document["video"] for document in documents) == sorted(
            f"./{name}" for name in names
        )
        for document in documents:
            json.dumps(document, ensure_ascii=False).encode()  # no surrogates
        _, lines, _ = c3d("classify", ".", "--csv", "--top", 1, cwd=videos, server=narrow_server)
        rows = list(csv.DictReader(line + "\n" for line in lines))
        assert {row["video"] for row in rows} == {f"./{name}" for name in names}

    def test_file_addresses_and_lists_name_such_files(self, videos, narrow_server, tmp_path):
        path = videos / os.fsdecode(b"gut\xe9.mp4")
        address = Uri.of_path(str(path)).raw
        assert address.isascii()
        assert address.endswith("/v%EDdeos/gut%E9.mp4")
        arguments = ("--out", tmp_path, "--server", narrow_server.target)
        for inputs, text in (([address], ""), (["-"], f"{address}\n"), ([path], "")):
            done = subprocess.run(
                [C3D, "extract", *map(os.fspath, inputs), *map(str, arguments)],
                input=text.encode(),
                capture_output=True,
            )
            assert done.returncode == 0, done.stderr
        assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"gut\xe9.mp4.npz"]
        assert b"1 skipped, done before" in done.stderr


class TestSuffixes:
    def test_newly_taken_videos_have_a_row_each_and_are_noted_once(
        self, narrow_server, tmp_path, run
    ):
        folder = tmp_path / "videos"
        folder.mkdir()
        options = ("extract", folder, "--out", tmp_path, "--server", narrow_server.target)
        write_video(folder / "a.mp4", 17, width=64, height=48)
        assert "release 0.1.0" not in "".join(run(*options)[2])
        for name, codec, frames in (("b.nut", "mpeg4", 17), ("c.asf", "mpeg4", 17)):
            write_video(folder / name, frames, codec=codec, width=64, height=48)
        with av.open(str(folder / "still.gif"), "w") as container:
            stream = container.add_stream("gif", rate=25, width=64, height=48, pix_fmt="rgb8")
            frame = av.VideoFrame(64, 48, "rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
            container.mux(stream.encode())
        write_sound(folder / "song.m4a").rename(folder / "song.ogg")
        (folder / "b.bin").touch()
        code, _, lines = run(*options)
        assert code == 1
        assert "still.gif: has 1 frames; a clip needs 16" in "\n".join(lines)
        assert "song.ogg: has no video stream" in "\n".join(lines)
        assert "2 videos done" in lines[-3]
        assert lines[-2:] == [
            "c3d: note: 4 videos have suffixes that release 0.1.0 left out: 1 .asf, 1 .gif, "
            "1 .nut, 1 .ogg",
            "c3d: 1 file left out: 1 .bin; --any takes all",
        ]
        code, _, lines = run(*options)
        assert code == 1
        assert "release 0.1.0" not in "".join(lines)
        for name in ("later.nut", "b.nut"):  # added later, or taken by this release from the start
            (folder / name).write_bytes((folder / "b.nut").read_bytes())
            lines = run(*options, *(("--out", tmp_path / "new") if name == "b.nut" else ()))[2]
            assert "release 0.1.0" not in "".join(lines), name
        code, _, lines = run(*options, "--any", "--quiet")
        assert sorted(Path(line.split(": ")[1]).name for line in lines) == [
            *("b.bin", "song.ogg", "still.gif"),
        ]


class TestFormats:
    NAMES = (b"gut\xe9.mp4", b"d\xff/in\xe9.mp4", b"two\nlines.mp4", b"n" * 251 + b".mp4")

    @pytest.mark.parametrize("format", FORMATS)
    def test_every_format_is_written_and_skipped_by_the_next_run(
        self, videos, narrow_server, tmp_path, format
    ):
        sources = [
            Source(str(videos / os.fsdecode(name)), os.fsdecode(name)) for name in self.NAMES
        ]
        for status in ("done", "skipped"):
            with C3DClient(narrow_server.target) as client:
                rows = list(ExtractJob(client, tmp_path, format=format).run(sources))
            assert [(row.status, row.error) for row in rows] == [(status, "")] * 4
        for row in rows:
            features = read_features(row.path, format=format)
            source = features.provenance["video"]["source"]
            assert source == str(Uri(row.source.uri))
            assert source == escape_bytes(source)

    def test_features_are_converted_with_escaped_ids(self, videos, narrow_server, tmp_path, run):
        h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 not run")
        sources = [
            Source(str(videos / os.fsdecode(name)), os.fsdecode(name)) for name in self.NAMES[:3]
        ]
        with C3DClient(narrow_server.target) as client:
            list(ExtractJob(client, tmp_path / "npz").run(sources))
        code, lines, _ = run(
            *("convert", tmp_path / "npz", "--to", "activitynet", "--out", tmp_path / "all.hdf5")
        )
        assert code == 0
        assert all(escape_controls(line) == line for line in lines.splitlines())
        with h5py.File(tmp_path / "all.hdf5") as file:
            assert sorted(file) == sorted([r"gut\xe9", r"in\xe9", "two\nlines"])
        for format in ("parquet", "h5", "npy"):
            code, *_ = run(
                *("convert", tmp_path / "npz", "--to", format, "--out", tmp_path / format)
            )
            assert code == 0, format
            assert len(list((tmp_path / format).rglob(f"*{FORMATS[format].suffix}"))) == 3

    def test_features_of_release_0_1_0_with_such_a_name_are_continued(
        self, videos, narrow_server, tmp_path
    ):
        path = videos / os.fsdecode(b"gut\xe9.mp4")
        source = Source(str(path), path.name)
        with C3DClient(narrow_server.target) as client:
            features = client.extract(path)
            # That release stored bytes as surrogates.
            video = {**features.provenance["video"], "source": str(path)}
            old = replace(features, provenance={**features.provenance, "video": video})
            target = output_path(tmp_path, source.name, "npz")
            write_features(target, old)
            (row,) = ExtractJob(client, tmp_path).run([source])
            assert row.status == "skipped"
            # A video that has changed is extracted again, and not taken for another one.
            video["fingerprint"] = {"size": 1, "mtime_ns": 1}
            write_features(target, replace(old, provenance={**old.provenance, "video": video}))
            (row,) = ExtractJob(client, tmp_path).run([source])
            assert (row.status, row.error) == ("done", "")
        write_features(tmp_path / "old.parquet", old)
        read = read_features(tmp_path / "old.parquet")
        assert np.array_equal(read.clip_features, features.clip_features)


class TestFailures:
    HOSTILE = (
        "\udce9",
        "\ud800 alone",
        "a\0b",
        "two\r\nlines\n",
        '"',
        '\',""',
        "m" * 10**6,
        "\x1b]0;title\x07",
        "=1+1",
        "",
        "\u2028\u202e",
    )

    def test_any_name_and_message_is_written_and_loses_no_other_row(self, tmp_path):
        names = [f"{number}{text[:9]}" for number, text in enumerate(self.HOSTILE)]
        failures = {
            name: Failure(name, text, text, text, text, {"x": text})
            for name, text in zip(names, self.HOSTILE, strict=True)
        }
        write_failures(tmp_path, failures)
        content = (tmp_path / "failures.csv").read_bytes()
        assert b"\0" not in content
        content.decode("utf-8")
        read = read_failures(tmp_path)
        assert len(read) == len(self.HOSTILE)
        for name, failure in failures.items():
            expected = escape_bytes(name).replace("\0", r"\x00")
            text = escape_bytes(failure.error).replace("\0", r"\x00")
            assert read[expected] == Failure(expected, text, text, text, text, {"x": text})
        write_failures(tmp_path, read)
        assert (tmp_path / "failures.csv").read_bytes() == content

    def test_any_message_of_an_error_is_one_short_line(self, videos, narrow_server, tmp_path):
        def fail(uri, **options):
            raise VideoDecodeError(uri, self.HOSTILE[int(Path(uri).name)])

        for number in range(len(self.HOSTILE)):
            (tmp_path / str(number)).touch()
        sources = [Source(str(tmp_path / str(n)), f"{n}") for n in range(len(self.HOSTILE))]
        with C3DClient(narrow_server.target) as client:
            job = ExtractJob(client, tmp_path / "out")
            client._extract = fail
            rows = list(job.run(sources))
        assert [row.status for row in rows] == ["failed"] * len(sources)
        written = listed(tmp_path / "out")
        assert len(written) == len(sources)
        for row in written:
            assert len(row["error"]) <= 2000
            assert escape_controls(row["error"]) == row["error"]
            assert row["fingerprint"]

    @pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), OSError(36, "too long")])
    def test_defect_in_one_video_ends_the_run_after_the_report_is_written(
        self, videos, narrow_server, tmp_path, error
    ):
        with C3DClient(narrow_server.target) as client:
            job = ExtractJob(client, tmp_path)
            extract = client._extract
            has_failed = threading.Event()

            def extract_or_fail(uri, **options):
                if uri.endswith("quote\"s'.mp4"):
                    assert has_failed.wait(LONG_S)
                    raise error
                try:
                    return extract(uri, **options)
                finally:
                    if uri.endswith("also_damaged.mp4"):
                        has_failed.set()

            client._extract = extract_or_fail
            rows = []
            with pytest.raises(type(error)):
                rows.extend(job.run(expand([videos]), workers=3))
            failures = {failure.video: failure for failure in read_failures(tmp_path).values()}
            name = "quote\"s'.mp4"
            assert failures[name].error_type == type(error).__name__
            assert failures[name].fingerprint == ""
            assert failures.keys() - {name} == {
                escape_bytes(row.source.name) for row in rows if row.status == "failed"
            }
            assert "also_damaged.mp4" in failures
            client._extract = extract
            again = list(ExtractJob(client, tmp_path).run(expand([videos])))
        assert {row.source.name for row in again if row.status == "skipped"} == {
            row.source.name for row in rows if row.status == "done"
        }
        assert len(again) == len(GOOD) + len(DAMAGED)
        assert len(read_failures(tmp_path)) == len(DAMAGED)

    def test_path_that_is_too_long_is_one_failure(self, videos, narrow_server, tmp_path):
        good = str(videos / "what?.mp4")
        sources = [Source(good, "good.mp4"), Source(good, "/".join(["d" * 250] * 17 + ["a.mp4"]))]
        with C3DClient(narrow_server.target) as client:
            rows = {row.source.name: row for row in ExtractJob(client, tmp_path).run(sources)}
        assert rows["good.mp4"].status == "done"
        assert rows[sources[1].name].status == "failed"
        assert "File name too long" in rows[sources[1].name].error
        assert set(read_failures(tmp_path)) == {sources[1].name}


class TestAddresses:
    def test_two_names_that_are_shown_alike_are_refused_in_one_line(self, tmp_path):
        for name in (b"a\xe9.mp4", rb"a\xe9.mp4"):
            (tmp_path / os.fsdecode(name)).touch()
        with pytest.raises(UsageError, match=r"both be listed as a\\xe9\.mp4: .*; rename one"):
            expand([tmp_path])

    def test_names_that_differ_by_their_normalisation_are_two_videos(self, tmp_path):
        for name in ("caf\u00e9.mp4", "cafe\u0301.mp4"):
            (tmp_path / name).touch()
        assert len({source.name for source in expand([tmp_path])}) == 2

    def test_address_of_a_path_opens_its_bytes(self, tmp_path):
        for name in (b"\xff.mp4", b"50%\xe9 #?.mp4", b"\xc3\xa9\xe9\n.mp4"):
            path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
            Path(path).write_bytes(b"123")
            uri = Uri.of_path(path)
            assert uri.raw.startswith("file:///")
            assert uri.raw.isascii()
            assert os.fsencode(uri.local_path) == os.fsencode(path)
            assert fingerprint(uri) == fingerprint(path)
            assert uri.canonical() == Uri(path)
            assert Uri.of(uri.raw).relative_to(Uri(str(tmp_path))) == os.fsdecode(name)
        for path in ("/a b/c.mp4", "/50%41.mp4", "/caf\u00e9.mp4"):
            assert Uri.of_path(path).raw == path

    def test_texts_have_neither_surrogates_nor_control_characters(self):
        for text, bytes_escaped, all_escaped in [
            ("plain \u00e9 \U0001f600", "plain \u00e9 \U0001f600", "plain \u00e9 \U0001f600"),
            ("\udc80\udcff", r"\x80\xff", r"\x80\xff"),
            ("\ud800\udfff", r"\ud800\udfff", r"\ud800\udfff"),
            ("a\n\t\r\0\x1b\x7f\x85", "a\n\t\r\0\x1b\x7f\x85", r"a\n\t\r\x00\x1b\x7f\x85"),
            ("\u202e\u2066\u200f", "\u202e\u2066\u200f", r"\u202e\u2066\u200f"),
            ("\u3000\u200d\u200c", "\u3000\u200d\u200c", "\u3000\u200d\u200c"),
        ]:
            assert escape_bytes(text) == bytes_escaped
            assert escape_controls(text) == all_escaped
        assert one_line("a\udce9\nb\u202e") == r"a\xe9 b"

    def test_errors_show_names_on_one_line_and_keep_them(self):
        path = "v\n\udce9.mp4"
        error = VideoDecodeError(path, "is damaged")
        assert str(error) == r"v\n\xe9.mp4: is damaged"
        assert error.source == path
        assert str(OutputError(path, "is full")) == r"v\n\xe9.mp4: is full"
        assert str(Uri(path)) == "v\n\\xe9.mp4"


# Patterns that cannot be used, with options, and what the line about them has.
FIELDS = "the fields are {stem}, {suffix}, {name}, {parent}, {relative}"
BAD_PATTERNS = (
    ("{stm}.npy", (), "name '{stm}.npy': there is no field {stm}; " + FIELDS),
    ("{}.npy", (), "there is no field {}; " + FIELDS),
    ("{0}.npy", (), "there is no field {0}; "),
    ("{stem!r}.npy", (), "there is no field {stem!r}; "),
    ("{stem:>9}.npy", (), "there is no field {stem:>9}; "),
    ("{stem.x}.npy", (), "there is no field {stem.x}; "),
    ("{stem.npy", (), FIELDS + ", and {{ is a brace"),
    ("stem}.npy", (), FIELDS + ", and {{ is a brace"),
    ("/tmp/{stem}.npy", (), "name '/tmp/{stem}.npy': it is absolute; give a path below the folder"),
    ("../{stem}.npy", (), "it has '..'"),
    ("a/../{stem}.npy", (), "it has '..'"),
    ("{stem}/...npy", (), "it has '..'"),
    ("", (), "its suffix is not that of a format; end it in one of .npz (npz), .npy (npy)"),
    ("{stem}", (), "its suffix is not that of a format; end it in one of .npz (npz)"),
    ("{stem}.csv", (), "its suffix is not that of a format; end it in one of .npz (npz)"),
    ("{relative}", (), "its suffix is not that of a format"),
    ("{stem}.npy/", (), "its suffix is not that of a format"),
    (".npy", (), "it is empty before .npy"),
    ("{parent}/.npy", (), "it is empty before .npy"),
    ("..npy", (), "it is empty before .npy"),
    (".c3d-x/{stem}.npy", (), "names that begin with .c3d- are those of unfinished files"),
    ("{stem}.npy", ("--format", "npz"), "it does not end in .npz, the suffix of npz"),
    ("{stem}", ("--format", "npz"), "it does not end in .npz, the suffix of npz"),
    ("{stem}.npy", ("--format", "xyz"), "there is no format 'xyz'"),
)


class TestPatterns:
    @pytest.fixture
    def folder(self, tmp_path):
        """Videos of one clip with the same stems in two folders."""
        folder = tmp_path / "videos"
        for name in ("a.mp4", "b.mp4", "one/a.mp4", "one/two/a.mp4"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_video(folder / name, 16, width=64, height=48)
        return folder

    @pytest.fixture
    def extract(self, run, narrow_server, folder, tmp_path):
        """Return a function that runs c3d extract with options; it returns code and lines."""

        def extract(*options, videos=folder, out=tmp_path / "out"):
            arguments = ("extract", videos, "--out", out, "--server", narrow_server.target)
            code, _, lines = run(*arguments, *options)
            return code, [line for line in lines if "the served weights" not in line]

        return extract

    def test_have_the_fields_of_the_name(self):
        for pattern, video, expected in (
            ("{stem}.npy", "a/b.c.mp4", "b.c.npy"),
            ("{name}.npy", "a/b.mp4", "b.mp4.npy"),
            ("{relative}.npy", "a/b.mp4", "a/b.mp4.npy"),
            ("{stem}{suffix}.npy", "a/b.mp4", "b.mp4.npy"),
            ("{stem}{suffix}.npy", "a/b", "b.npy"),
            ("{parent}/{stem}.npy", "a/b/c.mp4", "a/b/c.npy"),
            ("{parent}/{stem}.npy", "c.mp4", "c.npy"),
            ("x/{parent}/{stem}.npy", "c.mp4", "x/c.npy"),
            ("{parent}_{stem}.npy", "a/c.mp4", "a_c.npy"),
            ("{{{stem}}}.npy", "c.mp4", "{c}.npy"),
            ("{stem}.npy", "{relative}.mp4", "{relative}.npy"),
            ("{stem}.npy", ".mp4", ".mp4.npy"),
            ("{stem}.npy", "shot.0001", "shot.0001.npy"),
            ("{stem}{suffix}.npy", "v_1.5.m2ts", "v_1.5.m2ts.npy"),
            ("{stem}_C.txt", "c.mp4", "c_C.txt"),
            ("./x//{stem}.h5", "c.mp4", "x/c.h5"),
        ):
            format = pattern_format(pattern)
            path = output_path("/out", video, format, pattern=pattern)
            assert path == Path("/out", expected), (pattern, video)
        long = output_path("/out", "n" * 300 + ".mp4", "npy", pattern="{stem}.npy")
        assert len(os.fsencode(long.name + ".json")) == 255
        assert long.name.startswith("nnn")

    def test_that_cannot_be_used_are_one_line_before_any_work(self, run, closed_port, folder):
        out = folder.parent / "out"
        for pattern, options, expected in BAD_PATTERNS:
            code, stdout, lines = run(
                *("extract", folder, "--out", out, "--server", closed_port),
                *("--name", pattern, *options),
            )
            assert (code, stdout, len(lines)) == (2, "", 1), (pattern, lines)
            assert expected in lines[0], pattern
            assert not out.exists(), pattern
            with C3DClient(closed_port) as client:
                format = options[1] if options else None
                error = error_of(UsageError, ExtractJob, client, out, name=pattern, format=format)
            assert expected in str(error), pattern
            assert not out.exists(), pattern
        with C3DClient(closed_port) as client:
            assert "name is an int" in str(error_of(UsageError, ExtractJob, client, out, name=3))

    def test_with_one_output_for_two_videos_name_both_before_any_work(
        self, run, closed_port, narrow_server, folder
    ):
        out = folder.parent / "out"
        for pattern, videos, target in (
            ("{stem}.npy", ("a.mp4", "one/a.mp4"), "a.npy"),
            ("x.npz", ("a.mp4", "b.mp4"), "x.npz"),
            ("{parent}{suffix}.h5", ("a.mp4", "b.mp4"), ".mp4.h5"),
        ):
            # Every shard finds the collision, though the two may be in different shards.
            for options in ((), ("--shard", "1/16"), ("--shard", "2/2")):
                code, _, lines = run(
                    *("extract", folder, "--out", out, "--server", closed_port),
                    *("--name", pattern, *options),
                )
                one, other = (folder / name for name in videos)
                assert (code, lines) == (
                    2,
                    [
                        f"c3d: {one} and {other} would both be written to {out / target}; "
                        "use a name with more fields"
                    ],
                )
            assert not out.exists()
            with C3DClient(narrow_server.target) as client:
                job = ExtractJob(client, out, name=pattern, shard="1/1000")
                message = str(error_of(UsageError, list, job.run(expand([folder]))))
            assert f"{folder / videos[0]} and {folder / videos[1]} would both" in message
            out.rmdir()

    def test_videos_of_one_name_are_refused_by_the_library_too(
        self, narrow_server, folder, tmp_path
    ):
        sources = [Source(str(folder / name), "same") for name in ("a.mp4", "b.mp4")]
        with C3DClient(narrow_server.target) as client:
            job = ExtractJob(client, tmp_path / "out")
            message = str(error_of(UsageError, list, job.run(sources)))
        assert message == (
            f"{folder / 'a.mp4'} and {folder / 'b.mp4'} would both be written to "
            f"{tmp_path / 'out' / 'same.npz'}; rename one, or use two runs"
        )
        assert list((tmp_path / "out").iterdir()) == []

    def test_that_differ_in_case_alone_are_one_output_where_the_folder_ignores_case(
        self, closed_port, run, tmp_path, monkeypatch
    ):
        names = ("B.mp4", "b.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4")
        for name in names:
            (tmp_path / name).touch()
        arguments = ("extract", tmp_path, "--out", tmp_path / "out", "--server", closed_port)
        code, _, lines = run(*arguments, "--name", "{stem}.npy", "--patience", 0)
        assert "would both" not in lines[0]
        assert not ignores_case(tmp_path / "missing" / "folder")
        assert not list(tmp_path.glob(".*"))
        monkeypatch.setattr("c3d_client.outputs.registry.ignores_case", lambda folder: True)
        code, _, lines = run(*arguments, "--name", "{stem}.npy")
        assert code == 2
        assert f"{tmp_path}/B.mp4 and {tmp_path}/b.mp4 would both be written to" in lines[0]
        assert "(upper and lower case are the same there)" in lines[0]
        for name in names[:2]:
            (tmp_path / name).unlink()
        assert "would both be written to" in run(*arguments, "--name", "{stem}.npy")[2][0]

    def test_name_the_outputs_which_the_next_run_skips(self, extract, tmp_path):
        code, lines = extract("--name", "{parent}/{stem}.npy")
        assert (code, lines) == (0, ["c3d: 4 videos done, 4 clips"])
        assert {
            str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.npy")
        } == {
            *("a.npy", "b.npy", "one/a.npy", "one/two/a.npy"),
        }
        assert np.load(tmp_path / "out" / "one" / "a.npy").shape == (1, 4096)
        code, lines = extract("--name", "{parent}/{stem}.npy")
        assert lines == ["c3d: 0 videos done, 0 clips; 4 skipped, done before"]

    @pytest.mark.parametrize("format", FORMATS)
    def test_name_outputs_of_every_format(self, narrow_server, folder, tmp_path, format):
        pattern = "x/{parent}-{stem}" + FORMATS[format].suffix
        for status in ("done", "skipped"):
            with C3DClient(narrow_server.target) as client:
                rows = list(ExtractJob(client, tmp_path, name=pattern).run(expand([folder])))
            assert [(row.status, row.error) for row in rows] == [(status, "")] * 4
        assert {row.path.name.removesuffix(FORMATS[format].suffix) for row in rows} == {
            *("-a", "-b", "one-a", "two-a"),
        }
        for row in rows:
            source = read_features(row.path).provenance["video"]["source"]
            assert source == row.source.uri

    @pytest.mark.long
    def test_continue_a_folder_of_default_names_without_doing_a_video_again(
        self, extract, folder, tmp_path
    ):
        out = tmp_path / "out"
        for format, suffix in (("npz", "npz"), ("npy", "npy"), ("caffe", "fc6")):
            shutil.rmtree(out, ignore_errors=True)
            extract("--format", format)
            before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
            new = write_video(folder / f"new-{format}.mp4", 16, width=64, height=48)
            pattern = f"{{parent}}/{{stem}}.{suffix}"
            code, lines = extract("--name", pattern)
            assert code == 0
            assert lines[-1].startswith("c3d: 1 videos done, 1 clips; ")
            done = int(lines[-1].split("; ")[1].split()[0])
            assert lines[0] == (
                f"c3d: note: {done} videos done before under the default name: "
                f"a.mp4.{suffix} and others"
            )
            changed = {p for p, t in before.items() if p.is_file() and p.stat().st_mtime_ns != t}
            assert not changed
            assert (out / f"{new.stem}.{suffix}").exists()
            assert not (out / f"a.{suffix}").exists()
            # Those of both names are skipped by the next run.
            code, lines = extract("--name", pattern)
            assert lines[-1] == f"c3d: 0 videos done, 0 clips; {done + 1} skipped, done before"

    def test_that_lead_to_the_file_of_a_layer_of_another_video_fail(
        self, extract, folder, tmp_path
    ):
        """Further layers are in files of their own: a.fc7.npy next to a.npy."""
        write_video(folder / "b.fc7.mp4", 16, width=64, height=48)
        options = ("--layer", "fc6,fc7", "--name", "{parent}/{stem}.npy")
        for order in (("b.mp4", "b.fc7.mp4"), ("b.fc7.mp4", "b.mp4")):
            out = tmp_path / order[0]
            assert extract(*options, videos=folder / order[0], out=out)[0] == 0
            before = {path: path.read_bytes() for path in out.iterdir()}
            code, lines = extract(*options, videos=folder / order[1], out=out)
            assert code == 2
            assert "b.fc7.npy" in lines[0]
            after = {path: path.read_bytes() for path in out.iterdir() if path.suffix != ".csv"}
            assert after == before
        path = tmp_path / "b.mp4" / "b.fc7.npy"
        error = error_of(OutputError, write_features, path, sample_features(2))
        assert "it is a layer of the features of another video" in str(error)

    def test_give_a_changed_video_its_new_name(self, extract, folder, tmp_path):
        extract()
        write_video(folder / "a.mp4", 24, width=64, height=48)
        code, lines = extract("--name", "{parent}/{stem}.npz")
        assert code == 0
        assert lines[-1] == "c3d: 1 videos done, 2 clips; 3 skipped, done before"
        assert len(read_features(tmp_path / "out" / "a.npz").clip_starts) == 2
        assert len(read_features(tmp_path / "out" / "a.mp4.npz").clip_starts) == 1
        assert "4 skipped" in extract("--name", "{parent}/{stem}.npz")[1][-1]

    def test_refuse_outputs_of_default_names_that_were_made_differently(self, extract, tmp_path):
        extract("--stride", 16)
        code, lines = extract("--name", "{parent}/{stem}.npz")
        assert code == 2
        assert "4 of 4 done files were made with stride 16, not 8" in lines[-1]
        assert not (tmp_path / "out" / "a.npz").exists()
        code, lines = extract("--name", "{parent}/{stem}.npz", "--overwrite")
        assert (code, lines[-1]) == (0, "c3d: 4 videos done, 4 clips")

    def test_are_not_stopped_by_other_files_under_the_default_name(self, extract, folder, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "a.mp4.npz").write_text("my notes")
        write_features(out / "b.mp4.npz", sample_features(2))
        code, lines = extract("--name", "{parent}/{stem}.npz")
        assert (code, lines[-1]) == (0, "c3d: 4 videos done, 4 clips")
        assert (out / "a.mp4.npz").read_text() == "my notes"

    def test_do_not_replace_the_features_of_another_video(self, extract, folder, tmp_path):
        assert extract("--name", "{stem}.npz", videos=folder / "one" / "two")[0] == 0
        code, lines = extract("--name", "{stem}.npz", videos=folder / "a.mp4")
        assert code == 2
        path = folder / "one" / "two" / "a.mp4"
        assert f"holds the features of {path}, not of {folder / 'a.mp4'}" in lines[0]

    def test_outputs_next_to_their_videos_are_no_inputs(self, extract, folder):
        assert extract("--name", "{relative}.npz", out=folder)[0] == 0
        for pattern in ("{parent}/{stem}.npy", "{parent}/{stem}_C.txt", "{parent}/{stem}.h5"):
            assert extract("--name", pattern, out=folder)[0] == 0
            scan = Scan(any_file=True)
            assert len(expand([folder], scan=scan)) == 4, pattern
            assert not scan.left_out

    def test_name_the_files_of_a_conversion(self, extract, folder, tmp_path, run):
        extract()
        out = tmp_path / "out"
        code, stdout, _ = run(
            *("convert", out, "--to", "npy", "--out", tmp_path / "npy"),
            *("--name", "{parent}/{stem}.npy"),
        )
        assert code == 0
        assert len(list((tmp_path / "npy").rglob("*.npy"))) == 4
        assert np.array_equal(
            np.load(tmp_path / "npy" / "one" / "a.npy"),
            read_features(out / "one" / "a.mp4.npz").clip_features,
        )
        assert f"{out / 'a.mp4.npz'} -> {tmp_path / 'npy' / 'a.npy'}" in stdout
        for arguments, expected in (
            (("npy", "{stem}.npy"), f"{out}/a.mp4.npz and {out}/one/a.mp4.npz would both be"),
            (("npy", "{stem}.h5"), "it does not end in .npy, the suffix of npy"),
            (("activitynet", "{stem}.hdf5"), "activitynet is one file of all videos"),
        ):
            to, pattern = arguments
            code, _, lines = run(
                *("convert", out, "--to", to, "--out", tmp_path / "bad", "--name", pattern)
            )
            assert (code, len(lines)) == (2, 1)
            assert expected in lines[0]
            assert expected in str(
                error_of(UsageError, convert, [out], tmp_path / "bad", to=to, name=pattern)
            )
            assert not (tmp_path / "bad").exists()
