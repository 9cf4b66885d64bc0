"""Preflight checks: faults that would fail every shard are one line before the first."""

import threading
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest
from c3d_client import C3DClient, ClipWindow
from c3d_client.core.errors import (
    ContractMismatch,
    ModelNotFound,
    ProvenanceError,
    ServingError,
    ServingUnavailable,
    UsageError,
)
from c3d_pipelines.errors import StorageError
from c3d_pipelines.run.preflight import preflight
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.worker import do_shard
from c3d_pipelines.storage import Storage
from support.fake_serving import model_card
from support.ports import reserved_port
from support.processes import LONG_S
from support.shard_runs import files_in, plain_job, row
from support.videos import write_video

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.mark.parametrize("answer", ["features", "classes"])
def test_preflight_returns_the_provenance_and_writes_nothing(narrow_server, out, answer):
    window = ClipWindow(stride=16)
    plain = plain_job(out, narrow_server.target, answer=answer, window=window)
    settings = preflight(plain)
    with C3DClient(narrow_server.target, window=window) as c3d:
        assert settings.provenance == c3d.provenance()
    assert replace(settings, provenance={}) == plain
    assert JobSettings.from_json(settings.to_json()) == settings
    assert files_in(out) == []


@pytest.mark.parametrize(
    ("answer", "signature"), [("features", "fc6_features"), ("classes", "classify")]
)
def test_preflight_requests_one_clip_of_the_answer(started, out, answer, signature):
    server = started()
    preflight(plain_job(out, server.target, answer=answer))
    assert [request.model_spec.signature_name for request in server.requests] == [signature]


def test_server_that_is_starting_is_retried(started, out):
    server = started(port=reserved_port())
    server.stop()
    timer = threading.Timer(0.4, lambda: started(port=server.port))
    timer.start()
    assert preflight(plain_job(out, server.target)).provenance
    timer.join()


def test_server_that_never_answers_is_one_line(out):
    target = f"127.0.0.1:{reserved_port()}"
    began = time.monotonic()
    with pytest.raises(ServingUnavailable, match=f"^{target}: no server answers; is one"):
        preflight(plain_job(out, target, patience_s=0.3))
    assert time.monotonic() - began < LONG_S  # the patience of other tests
    assert not out.exists()


def test_missing_model_is_not_retried(server, out):
    with pytest.raises(ModelNotFound, match="does not have model 'c4d'"):
        preflight(plain_job(out, server.target, model="c4d"))
    assert [spec.name for spec in server.specs] == ["c4d"]


def test_server_that_refuses_the_client_is_one_line(started, out):
    server = started(lambda _, __, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no"))
    with pytest.raises(ServingError, match="does not let this client in"):
        preflight(plain_job(out, server.target))


def test_answer_that_is_not_a_number_is_one_line(started, out):
    server = started(lambda *_: np.full((1, 4096), np.inf, np.float32))
    with pytest.raises(ServingError, match=r"answer for a grey clip cannot be used.*NaN or inf"):
        preflight(plain_job(out, server.target))


def test_classes_need_a_model_with_as_many_labels(started, out):
    server = started(card=model_card(labels=["one"]))
    with pytest.raises(ContractMismatch, match="returns 3 probabilities and has 1 labels"):
        preflight(plain_job(out, server.target, answer="classes"))
    server = started()
    del server.signatures["classify"]
    with pytest.raises(UsageError, match="no signature 'classify'"):
        preflight(plain_job(out, server.target, answer="classes"))
    assert preflight(plain_job(out, server.target)).provenance


def test_a_dataset_that_was_made_differently_is_refused(started, tmp_path, out):
    server = started()
    settings = preflight(plain_job(out, server.target))
    do_shard(settings, [row(write_video(tmp_path / "a.mp4", 16))], 0)
    assert preflight(plain_job(out, server.target, run="run-2")).provenance == settings.provenance
    with pytest.raises(ProvenanceError, match="clips"):
        preflight(plain_job(out, server.target, window=ClipWindow(stride=16)))
    with pytest.raises(ProvenanceError, match="classes"):
        preflight(plain_job(out, server.target, answer="classes"))
    server.card = model_card(precision="bfloat16")
    with pytest.raises(ProvenanceError, match="bfloat16"):
        preflight(plain_job(out, server.target))


def test_a_dataset_of_classes_with_other_labels_is_refused(started, tmp_path, out):
    server = started(card=model_card(labels=["class 0", "class 1", "class 2"]))
    job = plain_job(out, server.target, answer="classes")
    do_shard(preflight(job), [row(write_video(tmp_path / "a.mp4", 16))], 0)
    preflight(job)
    server.card = model_card(labels=["class 0", "bowling", "cricket"])
    with pytest.raises(ProvenanceError, match=r"labels \(class 1 is 'class 1' against 'bowling'\)"):
        preflight(job)


def test_folder_that_cannot_be_written_is_one_line(started, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match=r"file/out.*cannot be written"):
        preflight(plain_job(tmp_path / "file" / "out", started().target))


def test_bucket_is_written_and_cleaned(started):
    settings = preflight(plain_job("memory://preflight/out", started().target))
    assert settings.provenance
    assert Storage("memory://preflight/out").names() == []
