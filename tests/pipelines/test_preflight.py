"""What would make every shard fail is found before the first, and said in one line."""

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
from support.films import write_film
from support.shard_runs import files_in, plain_job, row

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("answer", ["features", "classes"])
def test_it_fills_in_what_makes_the_numbers_and_asks_for_one_clip(narrow_server, out, answer):
    window = ClipWindow(stride=16)
    asked = plain_job(out, narrow_server.target, answer=answer, window=window)
    settings = preflight(asked)
    with C3DClient(narrow_server.target, window=window) as c3d:
        assert settings.provenance == c3d.provenance()
    assert replace(settings, provenance={}) == asked
    assert JobSettings.from_json(settings.to_json()) == settings
    assert files_in(out) == []


@pytest.mark.parametrize(
    ("answer", "signature"), [("features", "fc6_features"), ("classes", "classify")]
)
def test_one_clip_is_asked_for_the_answer_that_is_wanted(started, out, answer, signature):
    server = started()
    preflight(plain_job(out, server.target, answer=answer))
    assert [one.model_spec.signature_name for one in server.requests] == [signature]


def test_a_server_that_does_not_answer_yet_is_waited_for(started, out):
    server = started()
    server.stop()
    timer = threading.Timer(0.4, lambda: started(port=server.port))
    timer.start()
    assert preflight(plain_job(out, server.target)).provenance
    timer.join()


def test_a_server_that_does_not_come_is_one_clear_line(started, out):
    server = started()
    server.stop()
    began = time.monotonic()
    with pytest.raises(ServingUnavailable, match=f"^{server.target}: no server answers; is one"):
        preflight(plain_job(out, server.target, patience_s=0.3))
    assert time.monotonic() - began < 15
    assert not out.exists()


def test_a_model_that_the_server_does_not_have_is_not_waited_for(narrow_server, out):
    began = time.monotonic()
    with pytest.raises(ModelNotFound, match="does not have model 'c4d'"):
        preflight(plain_job(out, narrow_server.target, model="c4d"))
    assert time.monotonic() - began < 15


def test_a_server_that_lets_nobody_in_is_named(started, out):
    server = started(lambda _, __, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no"))
    with pytest.raises(ServingError, match="does not let this client in"):
        preflight(plain_job(out, server.target))


def test_an_answer_that_is_no_number_is_named(started, out):
    server = started(lambda *_: np.full((1, 4096), np.inf, np.float32))
    with pytest.raises(ServingError, match=r"answer for a grey clip cannot be used.*NaN or inf"):
        preflight(plain_job(out, server.target))


def test_classes_need_a_model_that_has_them_and_names_them(started, out):
    server = started(card=model_card(labels=["one"]))
    with pytest.raises(ContractMismatch, match="gives 3 probabilities and names 1 labels"):
        preflight(plain_job(out, server.target, answer="classes"))
    server = started()
    del server.signatures["classify"]
    with pytest.raises(UsageError, match="no signature 'classify'"):
        preflight(plain_job(out, server.target, answer="classes"))
    assert preflight(plain_job(out, server.target)).provenance


def test_a_dataset_that_was_made_differently_is_refused(started, tmp_path, out):
    server = started()
    settings = preflight(plain_job(out, server.target))
    do_shard(settings, [row(write_film(tmp_path / "a.mp4", 16))], 0)
    assert preflight(plain_job(out, server.target, run="run-2")).provenance == settings.provenance
    with pytest.raises(ProvenanceError, match="clips"):
        preflight(plain_job(out, server.target, window=ClipWindow(stride=16)))
    with pytest.raises(ProvenanceError, match="classes"):
        preflight(plain_job(out, server.target, answer="classes"))
    server.card = model_card(precision="bfloat16")
    with pytest.raises(ProvenanceError, match="bfloat16"):
        preflight(plain_job(out, server.target))


def test_a_place_that_cannot_be_written_to_is_named(started, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match=r"file/out.*cannot be written"):
        preflight(plain_job(tmp_path / "file" / "out", started().target))


def test_a_bucket_is_tried_too(started):
    settings = preflight(plain_job("memory://preflight/out", started().target))
    assert settings.provenance
    assert Storage("memory://preflight/out").names() == []
