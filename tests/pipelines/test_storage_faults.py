"""Storage in a bucket whose server fails: retries, and errors of one line."""

from __future__ import annotations

import asyncio
import random
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from c3d_client.video import stores
from c3d_pipelines.errors import StorageError
from c3d_pipelines.inputs.plan import write_plan
from c3d_pipelines.run.finish import report_step
from c3d_pipelines.run.steps import publish_step
from c3d_pipelines.shards import retry
from c3d_pipelines.storage import Storage
from support.processes import LONG_S
from support.s3_faults import (
    Fault,
    answers,
    cuts,
    resets,
    resets_after_doing,
    s3_proxy,
    waits,
)
from support.s3_server import s3_server
from support.sample_shards import A, B, commit, settings, to_do

pytestmark = pytest.mark.faults

pytest.importorskip("s3fs", reason="s3fs is not installed: storage on S3 not tested")

MEGABYTE = 1 << 20
BIG = random.Random(0).randbytes(24 * MEGABYTE + 12345)  # four parts
SLOW_DOWN = answers(503, "SlowDown", "Please reduce your request rate.")
INTERNAL = answers(500, "InternalError")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The proxy, with its environment set, and the server behind it as an fsspec file system."""
    with (
        s3_server(tmp_path_factory.mktemp("s3")) as server,
        s3_proxy(server.endpoint) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        server.use(patch)
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        sleep = asyncio.sleep
        # The libraries' pauses before retries, at a twentieth of their length.
        patch.setattr(asyncio, "sleep", lambda delay, *result: sleep(delay / 20, *result))
        yield proxy, server.file_system()


@pytest.fixture
def s3(running):
    """The server, with one empty bucket."""
    proxy, direct = running
    direct.mkdir("bucket")
    proxy.requests.clear()
    yield direct
    proxy.faults.clear()
    if direct.exists("bucket"):
        direct.rm("bucket", recursive=True)


@pytest.fixture
def proxy(running, s3):
    return running[0]


@pytest.fixture
def storage(s3) -> Storage:
    return Storage("s3://bucket/out")


def refused(call, *parts: str) -> str:
    """Return the one-line error of a call, which has the given parts."""
    with pytest.raises(StorageError) as failed:
        call()
    message = str(failed.value)
    assert "\n" not in message
    assert message.startswith(failed.value.uri)
    assert "tests' secret" not in message
    assert failed.value.__cause__ is None
    for part in parts:
        assert part in message
    return message


def unfinished(s3) -> list[str]:
    """Return the uploads that were neither completed nor aborted."""
    uploads = s3.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", [])
    return [upload["Key"] for upload in uploads]


def video_table(rows: int) -> pa.Table:
    features = np.random.default_rng(0).random(rows * 256, dtype=np.float32)
    return pa.table(
        {
            "row": pa.array(range(rows)),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(features), 256),
        }
    )


# Temporary faults


@pytest.mark.parametrize(
    "inject",
    [SLOW_DOWN, INTERNAL, answers(502, "BadGateway"), resets, resets_after_doing, waits(0.1)],
    ids=["slow down", "internal", "gateway", "reset", "answer lost", "late"],
)
def test_single_fault_is_retried(proxy, storage, s3, inject):
    for method, call in {
        "PUT": lambda: storage.write("a.json", b"right"),
        "GET /bucket/out": lambda: storage.read("a.json"),
        "GET /bucket?": storage.names,
        "HEAD": lambda: storage.size("a.json"),
        "DELETE": lambda: storage.remove("a.json"),
    }.items():
        fault = Fault(inject, method, times=1)
        proxy.faults = [fault]
        assert call() in (None, b"right", ["a.json"], 5)
        assert fault.count == 1
        assert s3.exists("bucket/out/a.json") == (method != "DELETE")


def test_file_is_read_completely_after_a_cut_connection(proxy, storage):
    storage.write("big", BIG)
    proxy.faults = [Fault(cuts, "GET", times=2)]
    assert storage.read("big") == BIG


def test_parquet_is_read_correctly_after_cut_connections(proxy, storage):
    full = video_table(8_000)
    with storage.writing("a.parquet") as path:
        pq.write_table(full, path, row_group_size=1_000)
    proxy.faults = [
        Fault(cuts, "GET", times=1),
        Fault(SLOW_DOWN, "GET", after=1, times=1),
        Fault(resets, "GET", after=2, times=1),
        Fault(cuts, "GET", after=1, times=2),
    ]
    with storage.reading("a.parquet") as file:
        parts = pq.ParquetFile(file)
        rows = [parts.read_row_group(n) for n in (7, 0, 6, 1, 5, 2, 4, 3)]
    assert pa.concat_tables(rows).sort_by("row").equals(full)
    assert [fault.count for fault in proxy.faults] == [1, 1, 1, 2]


def test_large_file_is_uploaded_in_parts_and_failed_parts_again(proxy, storage, s3):
    planned_faults = [
        Fault(SLOW_DOWN, "?uploads", times=1),
        Fault(resets, "partNumber=2", times=1),
        Fault(INTERNAL, "partNumber=3", times=1),
        Fault(resets_after_doing, "partNumber=4", times=1),
    ]
    proxy.faults = list(planned_faults)
    storage.write("big", BIG)
    assert [fault.count for fault in planned_faults] == [1, 1, 1, 1]
    assert s3.cat("bucket/out/big") == BIG
    parts = [r for r in proxy.requests if "partNumber" in r]
    assert len({r.split("&")[0] for r in parts}) == 4
    assert unfinished(s3) == []


def test_small_file_is_uploaded_in_one_request(proxy, storage):
    storage.write("a", bytes(15 * MEGABYTE))
    assert [request.split()[0] for request in proxy.requests] == ["PUT"]


def test_file_is_uploaded_again_while_retry_returns_true(proxy, storage):
    """These uploads follow the library's own retries."""
    failures = []

    def is_retry(error: Exception) -> bool:
        failures.append(error)
        if len(failures) == 2:
            proxy.faults = []
        return True

    proxy.faults = [Fault(INTERNAL, "PUT")]
    storage.write("a", b"x", retry=is_retry)
    assert (len(failures), storage.read("a")) == (2, b"x")
    proxy.faults = [Fault(resets, "PUT")]
    refused(lambda: storage.write("a", b"y", retry=lambda error: False), "Could not connect")
    assert storage.read("a") == b"x"


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.01)


@pytest.mark.usefixtures("short_pauses")
class TestWaitingForTheStore:
    """These attempts follow the library's own retries."""

    def test_work_is_repeated_while_the_server_is_away(self, proxy, storage, caplog):
        storage.write("a", b"x")
        away = Fault(resets, "GET", times=20)
        proxy.faults = [away]
        assert retry.wait_for_store(lambda: storage.read("a"), wait_s=600) == b"x"
        assert away.count == 20
        assert "s3://bucket/out/a: cannot be read (" in caplog.messages[0]
        assert "tried again for up to 600 s" in caplog.messages[0]

    def test_it_ends_with_the_stores_error(self, proxy, storage):
        proxy.faults = [Fault(INTERNAL, "PUT")]

        def work() -> None:
            storage.write("a", b"x")

        for wait_s in (0, 0.2):
            refused(lambda wait_s=wait_s: retry.wait_for_store(work, wait_s=wait_s), "written (")

    def test_work_is_not_repeated_where_that_cannot_help(self, s3, tmp_path, monkeypatch):
        missing = Storage("s3://no-such-bucket/out")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush hush")
        monkeypatch.setattr(stores, "_OPENED", {})
        forbidden = Storage("s3://bucket/out")
        (tmp_path / "file").write_text("not a folder")
        for broken in (missing, forbidden, Storage(tmp_path / "file")):
            calls = []

            def work(broken=broken, calls=calls) -> None:
                calls.append(broken)
                broken.write("a/b", b"x")

            refused(lambda work=work: retry.wait_for_store(work, wait_s=60))
            assert len(calls) == 1, broken.uri


@pytest.mark.usefixtures("short_pauses")
def test_publish_and_report_wait_for_the_server(proxy, s3, tmp_path):
    """Kubeflow does not retry these steps, and the shards are done by then."""
    job = settings("s3://bucket/out", patience_s=600.0)
    commit(job, [A, B])
    plan, checked = tmp_path / "plan", tmp_path / "settings"
    write_plan(plan, to_do(A, B))
    checked.write_text(job.to_json())
    artifacts = {"page_path": str(tmp_path / "page"), "text_path": str(tmp_path / "text")}
    away = Fault(resets, "GET", times=30)
    proxy.faults = [away]
    unsuccessful, _ = publish_step(plan_path=str(plan), settings_path=str(checked), **artifacts)
    assert (unsuccessful, away.count) == (0, 30)
    for after in (0, 10):  # from the start, and while it publishes
        away = Fault(resets, "GET", after=after, times=30)
        proxy.faults = [away]
        run = {"out": job.out, "run": job.run, "state": "SUCCEEDED", "message": ""}
        assert report_step(**run, **artifacts)["ok"] == 2
        assert away.count == 30


# Permanent faults


@pytest.mark.parametrize(
    ("inject", "message"),
    [(INTERNAL, "as requested"), (resets, "Could not connect")],
    ids=["internal", "reset"],
)
def test_failed_part_leaves_no_object_and_no_parts(proxy, storage, s3, inject, message):
    storage.write("before", b"x")
    proxy.faults = [Fault(inject, "partNumber=3")]
    refused(lambda: storage.write("big", BIG), "s3://bucket/out/big: cannot be written (", message)
    assert storage.names() == ["before"]
    assert unfinished(s3) == []
    # No part is in flight when the upload is aborted.
    assert not [request for request in proxy.requests if "partNumber=4" in request]


def test_upload_that_cannot_be_completed_keeps_the_old_object(proxy, storage, s3):
    storage.write("big", b"old")
    proxy.faults = [Fault(answers(403, "AccessDenied"), "POST /bucket/out/big?uploadId=")]
    refused(lambda: storage.write("big", BIG), "cannot be written (access denied")
    assert storage.read("big") == b"old"
    assert unfinished(s3) == []


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("PUT", lambda storage: storage.write("a", b"new")),
        ("GET", lambda storage: storage.read("a")),
        ("GET", lambda storage: storage.names()),
        ("HEAD", lambda storage: storage.size("a")),
        ("DELETE", lambda storage: storage.remove("a")),
    ],
    ids=["write", "read", "names", "size", "remove"],
)
def test_server_that_stays_down_is_one_line(proxy, storage, method, call):
    storage.write("a", b"old")
    proxy.faults = [Fault(resets, method)]
    refused(lambda: call(storage), "s3://bucket/out", "127.0.0.1")
    proxy.faults = []
    assert storage.read("a") == b"old"


def test_server_that_always_throttles_is_one_line(proxy, storage):
    proxy.faults = [Fault(SLOW_DOWN, "PUT")]
    refused(lambda: storage.write("a", b"x"), "cannot be written (", "reduce your request rate")
    assert len(proxy.requests) > 3


def test_silent_server_times_out(proxy, s3, monkeypatch):
    monkeypatch.setattr(stores, "_SILENCE_S", 0.3)
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setattr(stores, "_OPENED", {})
    storage = Storage("s3://bucket/out")
    ended = threading.Event()

    def is_silent(handler) -> None:
        # Its answer, that there is no such file, would be no error.
        ended.wait(LONG_S)
        handler.reply(*handler.response_of_server())

    proxy.faults = [Fault(is_silent)]
    refused(lambda: storage.read("a"), "s3://bucket/out/a: cannot be read (")
    ended.set()


def test_missing_server_is_one_line(storage, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(stores, "_OPENED", {})
    refused(lambda: Storage("s3://bucket/out").read("a"), "Could not connect", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_SECRET_ACCESS_KEY", "hush hush"), ("AWS_ACCESS_KEY_ID", "stranger")],
)
def test_wrong_credentials_are_reported_without_their_values(storage, s3, monkeypatch, name, value):
    storage.write("a", b"x")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "_OPENED", {})
    stranger = Storage("s3://bucket/out")
    for call in (
        lambda: stranger.read("a"),
        lambda: stranger.write("a", b"y"),
        lambda: stranger.write("big", BIG),
        lambda: stranger.size("a"),
        lambda: stranger.remove("a"),
        stranger.names,
    ):
        message = refused(call, "access denied", "AWS_ACCESS_KEY_ID")
        assert value not in message
    assert storage.names() == ["a"]


def test_missing_credentials_are_one_line(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(stores, "_OPENED", {})
    refused(lambda: Storage("s3://bucket/out").write("a", b"x"), "access denied", "credentials")


def test_missing_bucket_is_not_an_empty_folder(s3):
    missing = Storage("s3://no-such-bucket/out")
    for call in (
        missing.names,
        lambda: missing.read("a"),
        lambda: missing.write("a", b"x"),
        lambda: missing.write("big", BIG),
    ):
        refused(call, "s3://no-such-bucket/out", "there is no such bucket")
    assert not s3.exists("no-such-bucket")


def test_bucket_that_vanishes_during_an_upload_is_one_line(proxy, storage, s3):
    def vanish(handler) -> None:
        s3.rm("bucket", recursive=True)
        handler.reply(*handler.response_of_server())

    proxy.faults = [Fault(vanish, "partNumber=2", times=1)]
    message = refused(lambda: storage.write("big", BIG), "s3://bucket/out/big: cannot be written (")
    assert "there is no such" in message
    refused(storage.names, "there is no such bucket")
    refused(lambda: storage.read("big"), "there is no such bucket")
    assert not s3.exists("bucket")


def test_file_that_is_replaced_while_it_is_read_is_an_error(storage):
    with storage.writing("a.parquet") as path:
        pq.write_table(video_table(8_000), path, row_group_size=1_000)

    def read() -> None:
        with storage.reading("a.parquet") as file:
            parts = pq.ParquetFile(file)
            parts.read_row_group(0)
            with storage.writing("a.parquet") as path:
                pq.write_table(video_table(7_000), path, row_group_size=1_000)
            parts.read_row_group(6)

    refused(read, "cannot be read (was replaced while it was read; try again)")


def test_only_the_requested_columns_are_downloaded(proxy, storage):
    with storage.writing("a.parquet") as path:
        pq.write_table(video_table(16_000), path, row_group_size=1_000)
    assert storage.size("a.parquet") > 15 * MEGABYTE
    proxy.requests.clear()
    proxy.faults = [Fault(counting := Counting(), "GET")]
    with storage.reading("a.parquet") as file:
        assert pq.read_table(file, columns=["row"]).num_rows == 16_000
    assert counting.bytes < 2 * MEGABYTE


class Counting:
    """Forwards all requests and counts the bytes of the responses."""

    bytes = 0

    def __call__(self, handler) -> None:
        answer = handler.response_of_server()
        self.bytes += len(answer[2])
        handler.reply(*answer)


@pytest.mark.parametrize("seed", range(2))
def test_random_faults_lose_no_file(proxy, storage, s3, seed):
    """One request in eight fails; each call succeeds or raises an error."""
    dice = random.Random(seed)

    class Sometimes(Fault):
        def applies_to(self, method: str, path: str) -> bool:
            return dice.random() < 0.125

    def inject(handler) -> None:
        dice.choice([SLOW_DOWN, INTERNAL, resets, resets_after_doing, cuts])(handler)

    proxy.faults = [Sometimes(inject)]
    names = {f"d{n % 3}/f{n}": 9 * MEGABYTE if n % 4 == 0 else 100 for n in range(12)}
    sent = {name: random.Random(name).randbytes(size) for name, size in names.items()}
    done = {name for name in sent if result_or_none(storage.write, name, sent[name])}
    reread = {name: result_or_none(storage.read, name) for name in done}
    assert all(data is None or data == sent[name] for name, data in reread.items())
    proxy.faults = []
    # A file without acknowledgement may exist, and is then complete.
    assert done <= set(storage.names()) <= set(sent)
    assert all(storage.read(name) == sent[name] for name in storage.names())
    assert len(done) >= 10
    assert unfinished(s3) == []


def result_or_none(call, *arguments):
    """Return the call's result, or True; None after an error, which has one line."""
    try:
        return call(*arguments) or True
    except StorageError as error:
        return None if "\n" not in str(error) else pytest.fail(str(error))
