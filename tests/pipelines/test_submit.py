"""Runs are sent to a cluster and waited for; what goes wrong there is one clear line."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading

import pytest
from c3d_client.core.errors import ServingUnavailable, UsageError
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.submit import RunOptions, SentRun, submit, wait
from c3d_pipelines.run.cache_key import digest_of_model
from support.certificates import Authority
from support.fake_kfp import (
    errs,
    fake_kfp,
    hangs_up,
    page,
    says_nothing,
    sends_on,
    well,
)

pytestmark = pytest.mark.usefixtures("bare")

HUSH = "hush-hush-token"
GIVEN = {"videos": "s3://films/in", "out": "s3://films/out"}


@pytest.fixture
def opened():
    """Makes backends; closes them."""
    made = []

    def open_backend(kfp, **access) -> Backend:
        answer_s = access.pop("answer_s", 20.0)
        made.append(Backend(ClusterAccess(host=kfp.url, **access), answer_s=answer_s))
        return made[-1]

    yield open_backend
    for backend in made:
        backend.close()


def refused(call, *parts: str, kind: type = RunError) -> str:
    with pytest.raises(kind) as failed:
        call()
    said = str(failed.value)
    assert "\n" not in said
    assert HUSH not in said
    for part in parts:
        assert part in said
    return said


# What is sent


def test_a_run_is_sent_and_its_address_given(kfp, opened, bulk):
    sent = submit(opened(kfp), bulk, {**GIVEN, "stride": "4"}, name="one")
    assert sent == SentRun(
        run_id=next(iter(kfp.runs)),
        name="one",
        url=f"{kfp.url}/#/runs/details/{sent.run_id}",
        state="PENDING",
    )
    body = kfp.bodies[-1]
    assert body["runtime_config"] == {"parameters": {**GIVEN, "stride": 4}}
    assert set(body) == {"display_name", "experiment_id", "pipeline_spec", "runtime_config"}
    assert [one["display_name"] for one in kfp.experiments.values()] == ["c3d"]


def test_a_run_has_the_name_account_root_and_experiment_that_are_asked_for(kfp, opened, bulk):
    options = RunOptions(
        experiment="my films",
        pipeline_root="s3://films/artifacts",
        service_account="pipeline-runner",
        cached=False,
    )
    backend = opened(kfp)
    sent = submit(backend, bulk, GIVEN, options=options)
    assert re.fullmatch(r"c3d-bulk-extraction \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", sent.name)
    body = kfp.bodies[-1]
    assert body["service_account"] == "pipeline-runner"
    assert body["runtime_config"]["pipeline_root"] == "s3://films/artifacts"
    assert "enableCache" not in str(body["pipeline_spec"])
    submit(backend, bulk, GIVEN, options=options)
    assert [one["display_name"] for one in kfp.experiments.values()] == ["my films"]


def test_an_experiment_that_another_makes_meanwhile_is_taken(kfp, opened, bulk):
    def faster(handler) -> bool:
        kfp.create_experiment({"display_name": "c3d"}, {})
        return False

    kfp.faults = [well, faster]
    assert submit(opened(kfp), bulk, GIVEN).run_id
    assert len(kfp.experiments) == 1
    kfp.experiments["x"] = {**next(iter(kfp.experiments.values())), "experiment_id": "x"}
    refused(lambda: submit(opened(kfp), bulk, GIVEN), "has 2 experiments named 'c3d'")


def test_nothing_is_asked_of_the_cluster_for_parameters_that_do_not_fit(kfp, opened, bulk):
    refused(lambda: submit(opened(kfp), bulk, {"vidoes": "s3://a"}), "did you mean videos?")
    assert kfp.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"experiment": " "}, "experiment is empty"),
        ({"service_account": "Default User"}, "service_account is 'Default User'"),
        ({"pipeline_root": "/tmp/x"}, "pipeline_root is '/tmp/x'"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options, said):
    refused(lambda: RunOptions(**options), said, kind=UsageError)


# The model


def test_the_model_that_is_served_is_asked_for(kfp, opened, bulk, narrow_server):
    given = {**GIVEN, "server": narrow_server.target, "model_digest": "ask"}
    submit(opened(kfp), bulk, given)
    digest = kfp.bodies[-1]["runtime_config"]["parameters"]["model_digest"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    from c3d_client import C3DClient

    with C3DClient(narrow_server.target) as client:
        assert digest == digest_of_model(client.provenance())


def test_a_model_cannot_be_asked_for_without_a_server(kfp, opened, bulk):
    backend = opened(kfp)
    ask = {**GIVEN, "model_digest": "ask"}
    refused(lambda: submit(backend, bulk, ask), "give server=HOST:PORT", kind=UsageError)
    away = {**ask, "server": "127.0.0.1:1"}
    refused(lambda: submit(backend, bulk, away), "127.0.0.1:1", kind=ServingUnavailable)
    assert kfp.requests == []


# Who asks


def test_a_token_and_a_namespace_are_sent_where_there_are_several_users(kfp, opened, bulk):
    kfp.multi_user, kfp.tokens = True, {HUSH: {"team-a"}}
    backend = opened(kfp, token=HUSH, namespace="team-a")
    backend.check()
    submit(backend, bulk, GIVEN)
    assert next(iter(kfp.experiments.values()))["namespace"] == "team-a"
    nobody = opened(kfp, namespace="team-a")
    refused(lambda: submit(nobody, bulk, GIVEN), "HTTP 401", "give --token-file or --pod-token")
    stranger = opened(kfp, token=HUSH, namespace="team-b")
    refused(lambda: submit(stranger, bulk, GIVEN), "HTTP 403", "check the token and --namespace")
    refused(opened(kfp, token=HUSH).check, "has several users; give --namespace")


def test_a_token_in_a_file_is_read_anew_for_each_request(kfp, opened, bulk, tmp_path, caplog):
    path = tmp_path / "token"
    path.write_text("first\n")
    kfp.tokens = {"first": set()}
    backend = opened(kfp, token_file=str(path))
    sent = submit(backend, bulk, GIVEN)
    path.write_text("second\n")
    kfp.tokens = {"second": set()}
    assert wait(backend, sent, every_s=0.01).succeeded
    path.unlink()
    refused(lambda: backend.run(sent.run_id), f"{path}: the token cannot be read", kind=UsageError)
    assert caplog.text == ""


def test_a_cookie_is_sent(kfp, opened, bulk):
    submit(opened(kfp, cookie="authservice_session=1"), bulk, GIVEN)
    assert {one["Cookie"] for one in kfp.headers} == {"authservice_session=1"}


def test_tls_is_checked_with_the_ca_that_is_given(tmp_path, opened, bulk):
    authority = Authority(tmp_path, "ca")
    mine = authority.identity("kfp", hosts=("127.0.0.1",))
    other = authority.identity("other", hosts=("elsewhere.example",))
    with fake_kfp(mine) as kfp:
        opened(kfp, ca=str(authority.cert)).check()
        refused(opened(kfp).check, f"{kfp.url}: no TLS connection", "give its CA with --ca")
    with fake_kfp(other) as kfp:
        refused(opened(kfp, ca=str(authority.cert)).check, "no TLS connection")


def test_plain_and_tls_are_told_apart(kfp, tmp_path, opened):
    kfp.url = kfp.url.replace("http:", "https:")
    refused(opened(kfp).check, "no TLS connection", "is it https?")
    with fake_kfp(Authority(tmp_path, "ca").identity("x", hosts=("127.0.0.1",))) as other:
        other.url = other.url.replace("https:", "http:")
        refused(opened(other).check, "the connection broke")


# What is there


def test_nobody_there_is_said(kfp, opened, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        kfp.url = f"http://127.0.0.1:{free.getsockname()[1]}"
    refused(opened(kfp).check, f"{kfp.url}: nobody answers there (Connection refused); is it")
    assert caplog.text == ""  # what libraries warn of would be on the screen
    kfp.url = "http://no-such-host.invalid:80"
    refused(opened(kfp).check, "no-such-host.invalid:80: there is no such host")


def test_a_server_that_says_nothing_is_not_waited_for(kfp, opened, bulk):
    kfp.faults = [says_nothing]
    refused(opened(kfp, answer_s=0.2).check, "no answer in time")
    kfp.faults = [well, well, says_nothing]
    refused(lambda: submit(opened(kfp, answer_s=0.2), bulk, GIVEN), "no answer in time")
    # Started perhaps, and so not twice.
    assert kfp.requests.count("POST /apis/v2beta1/runs") == 1


def test_a_connection_that_breaks_is_said(kfp, opened, bulk):
    kfp.faults = [hangs_up] * 5
    refused(opened(kfp).check, f"{kfp.url}: the connection broke")


def test_a_login_page_is_not_taken_for_an_answer(kfp, opened, bulk):
    kfp.faults = [page("Sign in | Example")]
    said = "answers with a web page, 'Sign in | Example', instead of Kubeflow Pipelines' API"
    refused(opened(kfp).check, said)
    # Nor later, when a session ends.
    kfp.faults = [well, well, page("Sign in")]
    refused(lambda: submit(opened(kfp), bulk, GIVEN), "without saying which run it is")


def test_a_token_is_not_sent_on_to_where_an_answer_points(kfp, opened):
    with fake_kfp() as login:
        kfp.faults = [sends_on(f"{login.url}/auth?state=hush")]
        said = refused(opened(kfp, token=HUSH).check, f"sends on to {login.url}/auth (HTTP 302)")
        assert "hush" not in said
        assert login.requests == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (errs(404), "has no such thing (HTTP 404: so it was asked); check --host"),
        (errs(500, "a\nb"), "answers HTTP 500: a b"),
        (page("Bad Gateway", 502), "answers HTTP 502: a web page, 'Bad Gateway'"),
        (errs(409, "Already exist"), "answers HTTP 409: Already exist"),
    ],
)
def test_an_error_is_said_in_the_servers_words(kfp, opened, bulk, fault, said):
    kfp.faults = [well, well, fault]
    refused(lambda: submit(opened(kfp), bulk, GIVEN), f"{kfp.url}: {said}")


def test_json_of_something_else_is_not_taken(kfp, opened):
    def other(handler) -> bool:
        handler.answer(200, {"status": "ok"})
        return True

    kfp.faults = [other]
    refused(opened(kfp).check, "instead of Kubeflow Pipelines' API")


@pytest.mark.parametrize("tag", ["2.17.0", "2.18.1", "3.0.0", "v2.17.3", "unknown", "", "master"])
def test_a_backend_of_this_version_or_a_newer_one_is_taken(kfp, opened, tag):
    kfp.tag = tag
    opened(kfp).check()


@pytest.mark.parametrize("tag", ["2.16.4", "2.4.1", "1.8.22", "v2.0.5"])
def test_an_older_backend_is_refused_unless_it_is_to_be_tried(kfp, opened, tag):
    kfp.tag = tag
    said = f"is Kubeflow Pipelines {tag}, and pipelines are compiled with 2.17.0"
    refused(opened(kfp).check, said, "--any-version")
    opened(kfp).check(any_version=True)


# Waiting


def test_a_run_is_waited_for_and_its_states_are_told(kfp, opened, bulk):
    kfp.course = ["PENDING", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    backend, states = opened(kfp), []
    sent = submit(backend, bulk, GIVEN)
    ended = wait(backend, sent, every_s=0.01, on_state=lambda run: states.append(run.state))
    assert states == ["RUNNING", "SUCCEEDED"]
    assert (ended.succeeded, ended.ended, ended.message) == (True, True, "")


def test_a_run_that_fails_says_why(kfp, opened, bulk):
    kfp.course = ["PENDING", "FAILED"]
    kfp.failure = {"": "the run\nfailed", "extract": "no server", "gate": "3 videos failed"}
    backend = opened(kfp)
    ended = wait(backend, submit(backend, bulk, GIVEN), every_s=0.01)
    assert ended.ended
    assert not ended.succeeded
    assert ended.message == "the run failed; extract: no server; gate: 3 videos failed"
    kfp.failure = {f"extract-{n}": "" for n in range(9)}
    ended = wait(backend, submit(backend, bulk, GIVEN), every_s=0.01)
    assert ended.message.endswith("extract-3; extract-4; and 4 more")


@pytest.mark.parametrize("state", ["CANCELED", "SKIPPED"])
def test_a_run_that_is_stopped_is_not_waited_for_for_ever(kfp, opened, bulk, state):
    kfp.course = ["PENDING", "CANCELING", state]
    backend = opened(kfp)
    ended = wait(backend, submit(backend, bulk, GIVEN), every_s=0.01)
    assert (ended.state, ended.succeeded) == (state, False)


def test_an_api_that_is_away_for_a_while_is_waited_for(kfp, opened, bulk):
    backend = opened(kfp, answer_s=0.2)
    sent = submit(backend, bulk, GIVEN)
    kfp.faults = [errs(503), hangs_up, page("Bad Gateway", 502), says_nothing, page("Restarting")]
    assert wait(backend, sent, every_s=0.01).succeeded
    assert kfp.faults == []


def test_an_api_that_stays_away_ends_the_waiting_but_not_the_run(kfp, opened, bulk):
    backend = opened(kfp)
    sent = submit(backend, bulk, GIVEN)
    kfp.faults = [errs(503)] * 1000
    gone = lambda: wait(backend, sent, every_s=0.01, patience_s=0.2)  # noqa: E731
    refused(gone, "answers HTTP 503", f"the run goes on: {sent.url}")
    kfp.faults = [errs(403, "token expired")]
    refused(lambda: wait(backend, sent), "HTTP 403", f"the run goes on: {sent.url}")


def test_print_logging_and_threads_are_left_as_they_were(kfp, opened, bulk):
    before = (print, sys.stdout, os.environ.copy(), threading.active_count())
    backend = opened(kfp)
    wait(backend, submit(backend, bulk, GIVEN), every_s=0.01)
    assert before[:3] == (print, sys.stdout, os.environ.copy())
    assert logging.getLogger().level == logging.WARNING
