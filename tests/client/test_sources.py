"""expand, open_source and fingerprint without a network."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from c3d_client.core.contract import LAYERS
from c3d_client.core.errors import UsageError, VideoUnreadableError
from c3d_client.core.uri import Uri
from c3d_client.job import FILE_NAME
from c3d_client.outputs import FORMATS, output_path
from c3d_client.video.sources import (
    NEW_SUFFIXES,
    VIDEO_SUFFIXES,
    Scan,
    Source,
    expand,
    files_in,
    fingerprint,
    new_suffixes_text,
    open_source,
)
from support.videos import write_video


@pytest.fixture
def cwd(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def touch(*paths: str) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()


def names(*inputs, **options) -> list[str]:
    return [source.name for source in expand(inputs, **options)]


def pairs(*inputs, **options) -> list[tuple[str, str]]:
    return [(source.uri, source.name) for source in expand(inputs, **options)]


def test_name_of_a_file_is_its_path_as_typed(cwd):
    touch("a.mp4", "b/c.mp4")
    assert pairs("b/c.mp4", "./a.mp4", "b/../b/./d.mp4") == [
        ("b/c.mp4", "b/c.mp4"),
        ("./a.mp4", "a.mp4"),
        ("b/../b/./d.mp4", "b/d.mp4"),
    ]


def test_leading_dots_are_removed_from_names(cwd):
    touch("../x/y.mp4")
    assert names("../x/y.mp4") == ["x/y.mp4"]
    assert names("../../../z.mp4") == ["z.mp4"]


def test_name_of_an_absolute_path_is_its_file_name(cwd):
    touch("b/c.mp4")
    assert pairs(cwd / "b" / "c.mp4") == [(str(cwd / "b/c.mp4"), "c.mp4")]


def test_missing_files_and_any_suffix_are_accepted(cwd):
    touch("data.bin")
    assert names("missing.mp4", "data.bin") == ["missing.mp4", "data.bin"]


def test_videos_of_a_folder_are_sorted_and_named_relative_to_it(cwd):
    touch("v/b.mp4", "v/a.MKV", "v/a/z.webm", "v/notes.txt", "v/a-b.avi", "v/c/deep/er/x.ts")
    assert pairs("v") == [
        ("v/a/z.webm", "a/z.webm"),
        ("v/a-b.avi", "a-b.avi"),
        ("v/a.MKV", "a.MKV"),
        ("v/b.mp4", "b.mp4"),
        ("v/c/deep/er/x.ts", "c/deep/er/x.ts"),
    ]
    assert names("v/") == names(cwd / "v") == names("v")


def test_every_documented_suffix_is_found(cwd):
    touch(*(f"v/video{suffix}" for suffix in VIDEO_SUFFIXES))
    assert len(names("v")) == len(VIDEO_SUFFIXES) == 32


def test_suffixes_of_release_0_1_0_are_still_taken_and_stills_and_text_are_not(cwd):
    former = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv"
    assert set(former.split()) == VIDEO_SUFFIXES - NEW_SUFFIXES
    stills = {".apng", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".webp"}
    texts = {".ass", ".csv", ".json", ".m3u8", ".srt", ".txt", ".vtt", ".xml"}
    assert not VIDEO_SUFFIXES & (stills | texts)


def test_files_left_out_are_counted_by_suffix(cwd):
    touch("v/a.mp4", "v/b.GIF", "v/1.bin", "v/x/2.BIN", "v/n.txt", "v/plain", "v/.hidden", "v/.c/d")
    scan = Scan()
    assert names("v", scan=scan) == ["a.mp4", "b.GIF"]
    assert scan.left_out == {".bin": 2, ".txt": 1, "": 1}
    assert str(scan) == "4 files left out: 2 .bin, 1 without suffix, 1 .txt; --any takes all"
    assert names("v", "./v/", scan=scan) == ["a.mp4", "b.GIF"]
    assert sum(scan.left_out.values()) == 4  # the same folder is counted once
    for inputs, expected in [
        (["v/*"], {".bin": 2, ".txt": 1, "": 1}),
        (["v/**"], {".bin": 2, ".txt": 1, "": 1}),
        (["v/*.mp4"], {}),
        (["v/*.bin"], {}),
        (["v/a.mp4", "v/n.txt"], {}),
    ]:
        scan = Scan()
        expand(inputs, scan=scan)
        assert scan.left_out == expected, inputs
        assert bool(str(scan)) == bool(expected)


def test_every_file_can_be_taken(cwd):
    touch("v/a.mp4", "v/1.bin", "v/x/plain", "v/.hidden", "v/.c/d")
    scan = Scan(any_file=True)
    assert names("v", scan=scan) == ["1.bin", "a.mp4", "x/plain"]
    assert names("v/*", scan=Scan(any_file=True)) == ["1.bin", "a.mp4", "x/plain"]
    assert not scan.left_out
    touch("empty/.hidden")
    with pytest.raises(UsageError, match="^empty: no files there$"):
        expand(["empty"], scan=Scan(any_file=True))


def test_results_next_to_the_videos_are_neither_inputs_nor_counted(cwd):
    long = "n" * 251 + ".mp4"
    touch("v/a.mp4", f"v/{long}", "v/1.bin", "v/sub/b.avi", "v/plain")
    for video in ("a.mp4", long, "1.bin", "sub/b.avi", "plain"):
        for name, format in FORMATS.items():
            path = output_path("v", video, name)
            if format.is_folder:
                touch(f"{path}/000000.fc6-1")
            else:
                touch(str(path), *([f"{path}{format.sidecar_suffix}"]))
            if format.layer_path is not None:
                touch(*(str(format.layer_path(path, layer)) for layer in LAYERS))
    touch("v/a.mp4.html", "v/a.mp4.png", f"v/{FILE_NAME}", "v/sub/.c3d-0123")
    scan = Scan(any_file=True)
    assert names("v", scan=scan) == ["1.bin", "a.mp4", long, "plain", "sub/b.avi"]
    for path in Path("v").glob("[1p]*"):
        if path.is_file():
            path.unlink()
    scan = Scan()
    assert names("v", scan=scan) == ["a.mp4", long, "sub/b.avi"]
    assert not scan.left_out
    touch("v/mine.npz", "v/table.csv")
    scan = Scan()
    expand(["v"], scan=scan)
    assert scan.left_out == {".npz": 1, ".csv": 1}
    assert names("v/*.npz")[0] == "a.mp4.npz"  # named by their suffix, they are inputs


def test_text_about_suffixes_is_short_and_on_one_line(cwd):
    touch("v/a.mp4", *(f"v/{n}.s{n}" for n in range(9)), "v/b.long suffix of a sentence", "v/c.\nd")
    scan = Scan()
    expand(["v"], scan=scan)
    assert str(scan) == (
        r"11 files left out: 1 .\nd, 1 .long suffix of , 1 .s0, 1 .s1, 1 .s2, 1 .s3, "
        "5 of other suffixes; --any takes all"
    )
    assert new_suffixes_text(["a.mp4", "b.avi"]) == ""
    assert new_suffixes_text(["a.mp4", "b.GIF", "c/d.gif", "e.y4m"]) == (
        "3 videos have suffixes that release 0.1.0 left out: 2 .gif, 1 .y4m"
    )


def test_hidden_files_and_folders_are_left_out(cwd):
    touch("v/a.mp4", "v/.b.mp4", "v/.c/d.mp4", "v/._a.mp4", ".h/e.mp4")
    assert names("v") == ["a.mp4"]
    assert names("v/*.mp4", "v/**") == ["a.mp4"]
    assert names(".h") == ["e.mp4"]


def test_links_are_followed_and_loops_are_not(cwd):
    touch("v/a.mp4", "all/b.mp4")
    os.symlink("../all", "v/linked")
    os.symlink("../v", "all/back")
    os.symlink(".", "v/self")
    os.symlink("itself", "v/itself")
    assert names("v") == ["a.mp4", "linked/b.mp4"]
    assert names("v/**/*.mp4") == ["a.mp4", "linked/b.mp4"]


def test_broken_link_is_a_video(cwd):
    touch("v/a.mp4")
    os.symlink("gone.mp4", "v/b.mp4")
    assert names("v") == ["a.mp4", "b.mp4"]


def test_pipes_and_folders_are_not_videos(cwd):
    touch("v/a.mp4")
    os.mkfifo("v/pipe.mp4")
    touch("v/folder.mp4/x.mp4")
    assert names("v") == ["a.mp4", "folder.mp4/x.mp4"]


def test_folder_without_videos_is_an_error(cwd):
    touch("v/notes.txt")
    left_out = r"1 file left out: 1 \.txt; --any takes all"
    with pytest.raises(
        UsageError, match=rf"^v: no videos there \(files named \.3gp, .*\.y4m\); {left_out}$"
    ):
        expand(["v"])
    with pytest.raises(UsageError, match=r"^missing/: no such folder"):
        expand(["missing/"])


def test_folder_that_cannot_be_listed_is_an_error(cwd):
    with pytest.raises(UsageError, match=r"^gone: cannot be listed \(No such file or directory\)"):
        list(files_in("gone", ("**",)))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("v/*.mp4", ["a.mp4", "b1.mp4", "b2.mp4"]),
        ("v/b?.mp4", ["b1.mp4", "b2.mp4"]),
        ("v/b[!1].mp4", ["b2.mp4"]),
        ("v/**/*.mp4", ["a.mp4", "b1.mp4", "b2.mp4", "x/c.mp4", "x/y/d.mp4"]),
        ("v/**", ["a.mp4", "b1.mp4", "b2.mp4", "x/c.mp4", "x/y/d.mp4"]),
        ("v/*/c.mp4", ["x/c.mp4"]),
        ("v/[x]", ["x/c.mp4", "x/y/d.mp4"]),
        ("v/**/y/*", ["x/y/d.mp4"]),
        ("v/*.raw", ["video.raw"]),
        ("?/x/*.mp4", ["v/x/c.mp4"]),
    ],
)
def test_pattern_matches_as_in_a_shell(cwd, pattern, expected):
    touch("v/a.mp4", "v/b1.mp4", "v/b2.mp4", "v/x/c.mp4", "v/x/y/d.mp4", "v/video.raw", "v/a.txt")
    assert names(pattern) == expected
    assert names(cwd / pattern) == expected or pattern.startswith("?")
    assert all(Path(uri).exists() for uri, _ in pairs(pattern))


def test_pattern_without_matches_is_an_error(cwd):
    touch("v/a.mp4")
    with pytest.raises(UsageError, match=r"^v/\*\.mkv: matches no videos"):
        expand(["v/*.mkv"])
    with pytest.raises(UsageError, match=r"^gone/\*\.mp4: "):
        expand(["gone/*.mp4"])


def test_only_folders_that_a_pattern_can_match_are_listed(cwd, monkeypatch):
    touch("v/a.mp4", "v/big/b.mp4", "v/x/c.mp4", "v/.git/d.mp4")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    assert names("v/x*/*.mp4", "v/*.mp4") == ["x/c.mp4", "a.mp4"]
    assert listed == ["v", "v/x", "v"]
    expand(["v"])
    assert listed[3:] == ["v", "v/big", "v/x"]


@pytest.mark.parametrize(
    "name", ["a[1].mp4", "what?.mp4", "*.mp4", "#1.mp4", "ü ö 日本.mp4", " lead.mp4", "100%41.mp4"]
)
def test_existing_file_is_not_a_pattern(cwd, name):
    touch(f"v/{name}")
    touch("v/a1.mp4")
    assert pairs(f"v/{name}") == [(f"v/{name}", f"v/{name}")]
    assert name in names("v")
    Path(name).touch()
    if not name.startswith("#"):
        assert names("-", stdin=[f"{name}\n"]) == [name]


def test_folder_before_a_pattern_may_contain_brackets(cwd):
    touch("set[1]/a.mp4", "set1/b.mp4")
    assert pairs("set[1]/*.mp4") == [("set[1]/a.mp4", "a.mp4")]


def test_names_need_not_be_utf8(cwd):
    Path(os.fsdecode(b"v")).mkdir()
    (cwd / os.fsdecode(b"v/\xff.mp4")).touch()
    assert [os.fsencode(name) for name in names("v")] == [b"\xff.mp4"]
    assert names("-", stdin=[b"v/\xff.mp4\n"]) == [os.fsdecode(b"v/\xff.mp4")]


def test_list_on_standard_input(cwd):
    touch("a.mp4", "v/b.mp4", "w/c1.mp4", "tail ")
    lines = (
        "\ufeffa.mp4\r\n\n   \n# a comment\nv\nw/*.mp4\r\nhttps://host/d.mp4?x=1\ntail \nlast.mp4"
    )
    expected = ["a.mp4", "b.mp4", "c1.mp4", "d.mp4", "tail ", "last.mp4"]
    assert names("-", stdin=io.StringIO(lines, newline="")) == expected
    assert names("-", stdin=io.BytesIO(lines.encode())) == expected
    assert names("z.mp4", "-", stdin=["a.mp4"]) == ["z.mp4", "a.mp4"]


def test_standard_input_of_the_process_is_the_default(cwd):
    code = "from c3d_client.video.sources import expand; print([s.name for s in expand(['-'])])"
    process = subprocess.run([sys.executable, "-c", code], input=b"a.mp4\nb\xff.mp4\n", stdout=-1)
    assert process.stdout == b"['a.mp4', 'b\\udcff.mp4']\n"


def test_empty_list_is_an_error(cwd):
    with pytest.raises(UsageError, match="standard input names no videos"):
        expand(["-"], stdin=["\n", "# nothing\n"])


def test_same_video_counts_once(cwd):
    touch("v/a.mp4", "v/b.mp4")
    assert names("v/a.mp4", "v", "./v/b.mp4", cwd / "v" / "a.mp4") == ["v/a.mp4", "b.mp4"]
    assert names("http://h/a.mp4", "http://h/a.mp4") == ["a.mp4"]


def test_two_videos_of_one_name_are_an_error_with_advice(cwd):
    touch("v/a.mp4", "w/a.mp4")
    with pytest.raises(
        UsageError, match=r"^v/a\.mp4 and w/a\.mp4 would both be written as 'a\.mp4'; .*--root"
    ):
        expand(["v", "w"])
    assert names("v", "w", root=".") == ["v/a.mp4", "w/a.mp4"]
    with pytest.raises(UsageError) as caught:
        expand(["https://me:secret@h/v.mp4?token=abc", "https://h/v.mp4?token=def"])
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_names_are_relative_to_the_root(cwd):
    touch("v/x/a.mp4", "v/b.mp4")
    assert names("v/x", "v/*.mp4", cwd / "v/c.mp4", root=cwd / "v") == [
        "x/a.mp4",
        "b.mp4",
        "c.mp4",
    ]
    assert names("v/b.mp4", root="file://" + str(cwd)) == ["v/b.mp4"]
    for outside in ("v/b.mp4", "https://host/b.mp4", "s3://bucket/b.mp4"):
        with pytest.raises(UsageError, match="is not below the root, "):
            expand([outside], root="v/x")
    with pytest.raises(UsageError, match="is not below the root, https://"):
        expand(["v/b.mp4"], root="https://host/")


def test_root_may_be_a_url():
    assert names(
        "https://u:p@host/data/x%20y/a.mp4?s=1", "https://host/data/b.mp4", root="https://host/data"
    ) == ["x y/a.mp4", "b.mp4"]
    assert names("s3://bucket/in/x/a.mp4", root="s3://bucket/in/") == ["x/a.mp4"]
    for outside in ("https://host/database/a.mp4", "http://host/data/a.mp4", "s3://data/a.mp4"):
        with pytest.raises(UsageError, match="not below the root"):
            expand([outside], root="https://host/data")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://host/x/My%20Film.mp4?X-Amz-Signature=abc/def.mp4#t=1", "My Film.mp4"),
        ("http://me:secret@host/a%2F..%2Fb.mp4", "b.mp4"),
        ("HTTPS://host/a.mp4", "a.mp4"),
        ("https://host/", "host"),
        ("https://me:secret@host:80?a=1", "host:80"),
        ("https://host/x/..", "x"),
        ("s3://bucket/a/#1.mp4", "#1.mp4"),
        ("s3://bucket/a/%41.mp4", "%41.mp4"),
        ("rtsp://me:secret@camera/live/1?token=x", "1"),
        ("rtsp://camera", "camera"),
    ],
)
def test_name_of_a_url_is_its_last_part(uri, name):
    assert pairs(uri) == [(uri, name)]


def test_file_url_is_a_path(cwd):
    touch("v/a b.mp4", "v/c.mp4")
    base = f"file://{cwd}"
    assert pairs(f"{base}/v/a%20b.mp4") == [(f"{cwd}/v/a b.mp4", "a b.mp4")]
    assert names(f"{base}/v") == names(f"{base}/v/*") == ["a b.mp4", "c.mp4"]
    assert names(f"file://localhost{cwd}/v/c.mp4") == ["c.mp4"]


def test_names_cannot_leave_the_output_folder():
    for name in ("", "/a", "a/../b", "..", "a//b", "./a", "a\0b"):
        with pytest.raises(UsageError, match="cannot be written under the name"):
            Source("uri", name)
    for empty in ("", "https://"):
        with pytest.raises(UsageError):
            expand([empty])


def test_ten_thousand_files_take_little_time(cwd):
    for number in range(100):
        Path(f"v/{number:02d}").mkdir(parents=True)
    for number in range(10_000):
        open(f"v/{number % 100:02d}/{number}.mp4", "w").close()
    started = time.thread_time()  # not the clock, which runs while others compute
    assert len(expand(["v"])) == 10_000
    assert len(expand(["v/**/*.mp4"])) == 10_000
    lines = [f"s3://bucket/{number}.mp4\n" for number in range(10_000)]
    assert len(expand(["-"], stdin=lines)) == 10_000
    assert time.thread_time() - started < 20


def test_repr_of_a_source_contains_no_secrets():
    (source,) = expand(["https://me:secret@host/a.mp4?token=abc"])
    assert repr(source) == "Source(name='a.mp4')"


def test_local_files_and_urls_of_ffmpeg_are_opened_by_pyav(cwd):
    path = write_video(cwd / "a b.mp4", 3)
    for uri in (path, Uri.of(path), "a b.mp4", f"file://{cwd}/a%20b.mp4"):
        with open_source(uri) as opened, av.open(opened) as container:
            assert sum(1 for _ in container.decode(video=0)) == 3
    for uri in ("rtsp://camera/1", "missing.mp4"):
        with open_source(uri) as opened:
            assert opened == uri


def test_fingerprint_changes_with_the_file(cwd):
    path = Path("a.mp4")
    path.write_bytes(b"12345")
    before = fingerprint(path)
    assert before == {"size": 5, "mtime_ns": path.stat().st_mtime_ns}
    assert fingerprint(f"file://{cwd}/a.mp4") == before
    os.utime(path, ns=(0, 1))
    assert fingerprint("a.mp4") == {"size": 5, "mtime_ns": 1}
    assert fingerprint("rtsp://camera/1") == {}
    for missing in ("gone.mp4", "a.mp4/x", "a\0b"):
        with pytest.raises(VideoUnreadableError):
            fingerprint(missing)


def test_importing_loads_no_library_for_remote_files():
    code = (
        "import sys, c3d_client.video.sources as s; "
        "s.expand(['https://h/a.mp4', 'rtsp://c/1', 'b']); "
        "print({'fsspec', 's3fs', 'aiohttp', 'asyncio'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], stdout=-1, check=True, text=True)
    assert process.stdout == "set()\n"


@pytest.mark.parametrize(
    ("uri", "library", "extra"),
    [
        ("s3://bucket/a.mp4", "s3fs", "s3"),
        ("gs://bucket/a.mp4", "gcsfs", "gcs"),
        ("https://host/a.mp4", "aiohttp", "http"),
        ("https://host/a.mp4", "fsspec", "http"),
    ],
)
def test_missing_library_is_named_with_its_extra(uri, library, extra):
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from c3d_client import UsageError, sources\n"
        "for use in (sources.fingerprint, lambda uri: sources.open_source(uri).__enter__()):\n"
        "    try:\n"
        f"        use({uri!r})\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], stdout=-1, check=True, text=True)
    assert process.stdout.count(f"pip install 'c3d-client[{extra}]'") == 2
