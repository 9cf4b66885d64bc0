"""A model that changes while a shard is done: no file is written, and no numbers are mixed."""

import time
from dataclasses import replace

import pytest
from c3d_client.core.errors import ContractMismatch
from c3d_pipelines.shards import worker
from c3d_pipelines.shards.worker import do_shard
from support.fake_serving import model_card
from support.ports import reserved_port
from support.shard_runs import after, files_in, job, row
from support.videos import write_video

OTHER = {"weights": {"source": "other.h5", "sha256": "ef" * 32, "random": False}}

pytestmark = pytest.mark.usefixtures("short_pauses")


def change_version(server, started):
    server.version, server.card = 2, model_card(**OTHER)


def change_without_a_version(server, started):
    server.card = model_card(**OTHER)


def change_by_restart(server, started):
    server.stop()
    started(port=server.port, card=model_card(**OTHER))


@pytest.mark.parametrize("change", [change_version, change_without_a_version, change_by_restart])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_model_that_changes_stops_the_shard_and_no_file_is_written(
    started, rows, out, change, count
):
    server = started(port=reserved_port())
    settings = job(out, server.target, workers=1)
    with pytest.raises(ContractMismatch, match=r"became another one during the run \(model.weigh"):
        do_shard(settings, rows, 0, on_progress=after(count, lambda: change(server, started)))
    assert files_in(out) == []


def test_change_is_detected_long_before_the_shards_end(started, tmp_path, out, monkeypatch):
    monkeypatch.setattr(worker, "_CHECK_MODEL_EVERY_S", 0.05)
    server = started(lambda *_: time.sleep(0.02))
    path = write_video(tmp_path / "a.mp4", 24)
    settings = job(out, server.target, workers=1)
    change = after(2, lambda: change_without_a_version(server, started))
    with pytest.raises(ContractMismatch):
        do_shard(settings, [row(path, str(n)) for n in range(60)], 0, on_progress=change)
    assert len(server.requests) < 30


def test_temporary_change_of_the_model_is_detected(server, started, rows, out):
    settings = job(out, server.target, workers=1)

    def change_and_change_back(progress):
        if progress.done == 1:
            change_version(server, started)
        elif progress.done == 5:
            server.version, server.card = 1, model_card()

    with pytest.raises(ContractMismatch):
        do_shard(settings, rows, 0, on_progress=change_and_change_back)
    assert files_in(out) == []


def test_another_model_at_the_start_is_refused_before_any_clip(started, rows, out):
    settings = job(out, started().target)
    server = started(card=model_card(**OTHER))
    changed = job(out / "2", server.target)
    with pytest.raises(ContractMismatch, match="became another one during the run"):
        do_shard(replace(changed, provenance=settings.provenance), rows, 0)
    assert len(server.requests) == 1  # the preflight's
    assert files_in(out) == []


def test_same_model_with_another_version_number_is_accepted(server, rows, out):
    settings = job(out, server.target, workers=1)

    def roll_out():
        server.version = 2

    assert do_shard(settings, rows, 0, on_progress=after(2, roll_out)).counts["ok"] == 4
