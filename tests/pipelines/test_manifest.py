"""Manifests in their formats, and the messages about wrong rows."""

import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_pipelines.errors import ManifestError, StorageError
from c3d_pipelines.inputs.manifest import ManifestRow, read_manifest, write_manifest

FORMATS = ["m.csv", "m.jsonl", "m.ndjson", "m.parquet", "M.CSV"]
ROWS = [
    ManifestRow("a.mp4", "/videos/a.mp4", 5, 1.5, "sha256:00"),
    ManifestRow('a "b", c\nd', "s3://x/y,z.mp4"),
    ManifestRow(" é\u2028\t", "https://host/é.mp4?part=2", 2**63 - 1, 1e-9, "etag:x"),
    ManifestRow("17", "/ leading and trailing ", 0, 1e9),
]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path):
    """Return the one-line error of a manifest."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def as_lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("name", FORMATS)
def test_manifest_reads_back_as_it_was_written(tmp_path, name):
    write_manifest(tmp_path / name, ROWS)
    assert read_manifest(tmp_path / name) == ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_manifest_in_a_bucket_reads_back_as_it_was_written(name):
    write_manifest(f"memory://lists/{name}", ROWS)
    assert read_manifest(f"memory://lists/{name}") == ROWS


def test_uri_alone_is_enough_and_is_the_id(tmp_path):
    path = written(tmp_path / "m.csv", "uri\nin/a.mp4\ns3://b/c.mp4\nhttps://me:pw@h/d.mp4?t=1\n")
    assert read_manifest(path) == [
        ManifestRow("in/a.mp4", str(tmp_path / "in/a.mp4")),
        ManifestRow("s3://b/c.mp4", "s3://b/c.mp4"),
        ManifestRow("https://***@h/d.mp4?t=***", "https://me:pw@h/d.mp4?t=1"),
    ]


def test_relative_uris_are_resolved_from_the_manifests_folder(tmp_path, monkeypatch):
    folder = tmp_path / "lists"
    folder.mkdir()
    written(folder / "m.jsonl", as_lines({"uri": "a.mp4"}, {"uri": "../b.mp4"}, {"uri": "/c.mp4"}))
    expected = [str(folder / "a.mp4"), str(tmp_path / "b.mp4"), "/c.mp4"]
    monkeypatch.chdir(tmp_path)
    for path in (folder / "m.jsonl", "lists/m.jsonl", f"file://{folder}/m.jsonl"):
        assert [row.uri for row in read_manifest(path)] == expected
    monkeypatch.chdir(folder)
    assert [row.uri for row in read_manifest("m.jsonl")] == expected


def test_relative_uris_of_a_manifest_in_a_bucket_stay_in_the_bucket():
    rows = [ManifestRow(name, name) for name in ("a.mp4", "../b.mp4", "../../../c.mp4", "/d.mp4")]
    write_manifest("memory://bucket/lists/m.csv", rows)
    assert [row.uri for row in read_manifest("memory://bucket/lists/m.csv")] == [
        "memory://bucket/lists/a.mp4",
        "memory://bucket/b.mp4",
        "memory://bucket/c.mp4",
        "/d.mp4",
    ]


def test_csv_of_other_programs_is_read(tmp_path):
    for text in [
        "\ufeffuri,video_id,size_bytes\r\na.mp4,one,7\r\n\r\n",
        "uri, video_id, size_bytes,other\n\n   \na.mp4, one, 7,x\n,,,\n",
        'note,uri,video_id,size_bytes\n"two\nlines",a.mp4,one,7.0\n',
    ]:
        path = written(tmp_path / "m.csv", text)
        assert read_manifest(path) == [ManifestRow("one", str(tmp_path / "a.mp4"), 7)], text


def test_json_lines_of_other_programs_are_read(tmp_path):
    text = "\ufeff" + as_lines({"uri": "/a", "video_id": 17, "size_bytes": 7.0, "x": [1]}) + "\r\n"
    text += as_lines({"uri": "/b", "video_id": None, "size_bytes": None, "duration_s": 2})
    path = written(tmp_path / "m.ndjson", text + '{"uri": "/c\u2028"}')
    assert read_manifest(path) == [
        ManifestRow("17", "/a", 7),
        ManifestRow("/b", "/b", 0, 2.0),
        ManifestRow("/c\u2028", "/c\u2028"),
    ]


def test_parquet_of_pandas_is_read(tmp_path):
    path = tmp_path / "m.parquet"
    frame = pd.DataFrame({"uri": ["/a", "/b"], "size_bytes": [7, None], "duration_s": [None, 2.5]})
    frame.assign(video_id=[1, 2], extra=[{"deep": 1}, None]).to_parquet(path)
    assert read_manifest(path) == [ManifestRow("1", "/a", 7), ManifestRow("2", "/b", 0, 2.5)]


def test_all_bad_rows_are_reported_at_once_with_their_lines(tmp_path):
    text = (
        "video_id,uri,size_bytes,duration_s\n"
        "a,a.mp4,1,1\n"
        '"b\nc",,1,1\n'  # lines 3 and 4
        "\n"
        "d,d.mp4,big,1\n"
        "e,e.mp4,-1,1\n"
        "f,f.mp4,1,nan\n"
        "g,g.mp4,1,-2\n"
        "a,h.mp4,1,1\n"
        "i,i.mp4\n"
        "j,j.mp4,1,1,1\n"
        "k,k.mp4,1,inf\n"
        "l,l.mp4,1.5,1\n"
    )
    message = refusal(written(tmp_path / "m.csv", text))
    start, *problems = message.split("; ")
    problems.insert(0, start.removeprefix("10 rows cannot be used: "))
    expected = [
        "line 3: has no uri",
        "line 6: size_bytes is 'big'",
        "line 7: size_bytes is '-1'",
        "line 8: duration_s is 'nan'",
        "line 9: duration_s is '-2'",
        "line 10: video_id 'a' comes twice, first in line 2",
        "line 11: fewer fields (2) than the header (4)",
        "line 12: more fields (5) than the header (4)",
        "line 13: duration_s is 'inf'",
        "line 14: size_bytes is '1.5'",
    ]
    assert len(problems) == len(expected)
    for problem, message_part in zip(problems, expected, strict=True):
        assert problem.startswith(message_part)


def test_value_of_the_wrong_type_is_one_line(tmp_path):
    for record, message_part in [
        ('{"uri": "/a"', "line 1: is not JSON (Expecting ',' delimiter, at character 13)"),
        ("[" * 100_000, "line 1: is not JSON (maximum recursion"),
        ('["/a"]', "line 1: is not a JSON object"),
        ("null", "line 1: is not a JSON object"),
        ("{}", "line 1: has no uri"),
        ('{"uri": null}', "line 1: has no uri"),
        ('{"uri": ["/a"]}', "line 1: uri is ['/a'], not text"),
        ('{"uri": 7}', "line 1: uri is 7, not text"),
        ('{"uri": "/a", "video_id": true}', "line 1: video_id is True, not text"),
        ('{"uri": "/a", "video_id": 1.5}', "line 1: video_id is 1.5, not text"),
        ('{"uri": "/a", "video_id": "  "}', "neither may be empty"),
        ('{"uri": "/a\\u0000"}', "is not text that can be written"),
        ('{"uri": "/a\\ud800"}', "is not text that can be written"),
        ('{"uri": "/a", "key": 5}', "line 1: key is 5, not text"),
        ('{"uri": "/a", "size_bytes": true}', "line 1: size_bytes is True"),
        ('{"uri": "/a", "size_bytes": NaN}', "line 1: size_bytes is nan"),
        ('{"uri": "/a", "size_bytes": 9223372036854775808}', "line 1: size_bytes is 9223372"),
        ('{"uri": "/a", "duration_s": NaN}', "line 1: duration_s is nan"),
        ('{"uri": "/a", "duration_s": -0.5}', "line 1: duration_s is -0.5"),
        ('{"uri": "/a", "duration_s": [1]}', "line 1: duration_s is [1]"),
        ('{"uri": "/a", "duration_s": 1' + "0" * 400 + "}", "line 1: duration_s is 100"),
    ]:
        message = refusal(written(tmp_path / "m.jsonl", record + "\n"))
        assert message.startswith("1 row cannot be used: "), (record, message_part)
        assert message_part in message, (record, message_part)
        assert len(message) < 300, (record, message_part)


def test_bad_rows_of_parquet_are_reported_with_their_numbers(tmp_path):
    path = tmp_path / "m.parquet"
    table = {
        "uri": ["/a", None, "/c", "/a", None],
        "video_id": ["a", "b", "c", "a", None],
        "duration_s": [1.0, 1.0, float("nan"), 1.0, None],
    }
    pq.write_table(pa.table(table), path)
    assert refusal(path) == (
        "3 rows cannot be used: row 2: has no uri; "
        "row 3: duration_s is nan, not seconds, 0 or more; "
        "row 4: video_id 'a' comes twice, first in row 1"
    )


def test_parquet_column_that_is_not_text_is_one_line(tmp_path):
    for column in [pa.array([b"/a"]), pa.array([{"path": "/a"}]), pa.array([["/a"]])]:
        pq.write_table(pa.table({"uri": column}), tmp_path / "m.parquet")
        assert "row 1: uri is " in refusal(tmp_path / "m.parquet"), column


def test_thousands_of_bad_rows_are_counted_and_twenty_reported(tmp_path):
    message = refusal(written(tmp_path / "m.jsonl", "{}\n" * 5000))
    assert message.startswith("5000 rows cannot be used: line 1: ")
    assert message.endswith("line 20: has no uri; and 4980 more")


GIT_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 320000000\n"


def test_file_that_is_not_a_manifest_is_one_line(tmp_path):
    for name, content, message_part in [
        ("m.csv", b"", "is empty (0 bytes)"),
        ("m.parquet", b"", "is empty (0 bytes)"),
        ("m.csv", b"\n\r\n", "has no header"),
        ("m.csv", b"video_id,name\na,b\n", "has no column uri; its columns are:"),
        ("m.csv", b"uri;video_id\na;b\n", "has no column uri; its columns are: uri;"),
        ("m.csv", b"uri,uri\na,b\n", "its column uri comes twice"),
        ("m.csv", b"uri\n", "holds no rows; there is nothing to do"),
        ("m.jsonl", b"\n\n", "holds no rows; there is nothing to do"),
        ("m.csv", b"uri\na\n\xff\xfe\n", "is not UTF-8 text (byte 0xff in line 3)"),
        ("m.csv", "uri\na\n".encode("utf-16"), "is not UTF-8 text (byte 0xff in line 1)"),
        ("m.csv", b'uri\na\n"b\nc\n', "line 3: cannot be read as CSV (unexpected end of data)"),
        ("m.csv", b"uri\n" + b"x" * 200_000, "line 2: cannot be read as CSV (field larger"),
        ("m.parquet", b"uri\na\n", "cannot be read as Parquet"),
        ("m.csv", b"<!DOCTYPE html>\n<title>Sign in</title>", 'it is an HTML page ("Sign in"); '),
        ("m.jsonl", GIT_LFS, "it is a git-lfs pointer; run `git lfs pull`"),
        ("m.parquet", GIT_LFS, "it is a git-lfs pointer; run `git lfs pull`"),
        (
            "m.csv",
            b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml",
            "it is a document of an office",
        ),
        ("m.parquet", b"PAR1" + b"x" * 100 + b"PAR1", "cannot be read as Parquet"),
    ]:
        assert refusal(written(tmp_path / name, content)).startswith(message_part), (
            name,
            content,
            message_part,
        )


def test_bad_rows_before_the_end_of_a_truncated_csv_are_reported_too(tmp_path):
    message = refusal(written(tmp_path / "m.csv", 'uri,size_bytes\na,big\n"b,1\n'))
    assert "line 2: size_bytes is 'big'" in message
    assert message.endswith("(unexpected end of data); the rest of the file was not read")


def test_parquet_manifest_that_is_truncated_or_has_no_uri_is_one_line(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"url": ["/a"]}), path)
    assert refusal(path) == "has no column uri; its columns are: url"
    write_manifest(path, ROWS)
    os.truncate(path, path.stat().st_size - 10)
    assert refusal(path).startswith("cannot be read as Parquet")


def test_password_in_a_file_without_header_is_not_shown(tmp_path):
    message = refusal(written(tmp_path / "m.csv", "https://me:pw@host/a.mp4?token=secret,5\n"))
    assert "https://***@host/a.mp4?token=***" in message
    assert "pw" not in message
    assert "secret" not in message


def test_missing_file_or_other_suffix_is_one_line(tmp_path):
    assert refusal(tmp_path / "absent.csv").startswith("no such file")
    assert "does not have the suffix of a manifest; .csv, .jsonl" in refusal(tmp_path / "list.txt")
    with pytest.raises(ManifestError, match="does not have the suffix of a manifest"):
        write_manifest(tmp_path / "list.txt", ROWS)


def test_manifest_on_a_web_server_is_to_be_downloaded():
    for url in ("https://host/list.csv", "https://me:pw@host/list.csv?token=secret"):
        with pytest.raises(ManifestError, match=r"list\.csv.*: is on a web server.*; download it"):
            read_manifest(url)


def test_manifest_with_a_repeated_id_is_not_written(tmp_path):
    rows = [ManifestRow("a", "a.mp4", 1), ManifestRow("a", "b.mp4", 1)]
    with pytest.raises(ManifestError, match="row 2: video_id 'a' comes twice, first in row 1"):
        write_manifest(tmp_path / "manifest.csv", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_manifest_that_cannot_be_written_leaves_no_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_manifest(tmp_path / name, ROWS)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "values",
    [
        ("", "u"),
        ("v", " "),
        ("v", "u", -1),
        ("v", "u", 2**63),
        ("v", "u", 0, -1.0),
        ("v", "u", 0, float("nan")),
        ("v", "\udcff.mp4"),
    ],
)
def test_unusable_row_is_refused(values):
    with pytest.raises(ManifestError):
        ManifestRow(*values)
