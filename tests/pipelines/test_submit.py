"""Runs on a cluster: sent, waited for, and failures reported in one line."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading

import pytest
from c3d_client.core.errors import ServingUnavailable, UsageError
from c3d_client.core.provenance import Provenance
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.api import Backend, ClusterAccess
from c3d_pipelines.kubeflow.submit import RunOptions, SentRun, submit, wait
from c3d_pipelines.run.steps import digest_of_model
from support.certificates import Authority
from support.fake_kfp import (
    fails,
    fake_kfp,
    hangs_up,
    no_answer,
    no_fault,
    page,
    redirects,
)
from support.processes import LONG_S, wait_until

pytestmark = pytest.mark.usefixtures("bare")

SECRET = "hush-hush-token"
PARAMETERS = {"videos": "s3://bucket/in", "out": "s3://bucket/out"}


@pytest.fixture
def opened():
    """Open backends; close them after the test."""
    backends = []

    def open_backend(kfp, **access) -> Backend:
        answer_s = access.pop("answer_s", LONG_S)
        backends.append(Backend(ClusterAccess(host=kfp.url, **access), answer_s=answer_s))
        return backends[-1]

    yield open_backend
    for backend in backends:
        backend.close()


def refused(call, *parts: str, kind: type = RunError) -> str:
    """Check that a call raises an error whose message has these parts and no secret."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    for part in parts:
        assert part in message
    return message


# The request


def test_run_is_sent_and_its_id_returned(kfp, opened, bulk):
    sent = submit(opened(kfp), bulk, {**PARAMETERS, "stride": "4"}, name="one")
    assert sent == SentRun(
        run_id=next(iter(kfp.runs)),
        name="one",
        url="",
        state="PENDING",
    )
    body = kfp.bodies[-1]
    assert body["runtime_config"] == {"parameters": {**PARAMETERS, "stride": 4}}
    assert set(body) == {"display_name", "experiment_id", "pipeline_spec", "runtime_config"}
    assert [experiment["display_name"] for experiment in kfp.experiments.values()] == ["c3d"]


def test_run_has_the_requested_name_account_root_and_experiment(kfp, opened, bulk):
    options = RunOptions(
        experiment="my videos",
        pipeline_root="s3://bucket/artifacts",
        service_account="pipeline-runner",
    )
    backend = opened(kfp)
    sent = submit(backend, bulk, PARAMETERS, options=options)
    assert re.fullmatch(r"c3d-bulk-extraction \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", sent.name)
    body = kfp.bodies[-1]
    assert body["service_account"] == "pipeline-runner"
    assert body["runtime_config"]["pipeline_root"] == "s3://bucket/artifacts"
    assert "enableCache" not in str(body["pipeline_spec"])
    submit(backend, bulk, PARAMETERS, options=options)
    assert [experiment["display_name"] for experiment in kfp.experiments.values()] == ["my videos"]


def test_links_are_those_of_the_web_interface_if_its_address_is_known(kfp, opened, bulk):
    for ui in ("https://ui.example/pipeline", "https://ui.example/pipeline/#/experiments"):
        sent = submit(opened(kfp, ui=ui), bulk, PARAMETERS)
        assert sent.url == f"https://ui.example/pipeline/#/runs/details/{sent.run_id}"
        assert sent.address == sent.url
    sent = submit(opened(kfp), bulk, PARAMETERS)
    assert (sent.url, sent.address) == ("", sent.run_id)


def test_experiment_of_another_namespace_is_refused(kfp, opened, bulk):
    kfp.multi_user, kfp.tokens = True, {SECRET: {"team-a"}}
    backend = opened(kfp, token=SECRET, namespace="team-a")
    submit(backend, bulk, PARAMETERS)
    page = kfp.page

    def elsewhere(resources, field, query, headers):
        answer = page(resources, field, query, headers)
        return {**answer, field: [{**item, "namespace": "other"} for item in answer[field]]}

    kfp.page = elsewhere
    refused(
        lambda: submit(backend, bulk, PARAMETERS), "would run in namespace other, not in team-a"
    )
    assert len(kfp.runs) == 1


def test_experiment_that_another_client_creates_meanwhile_is_used(kfp, opened, bulk):
    def other_client(handler) -> bool:
        kfp.create_experiment({"display_name": "c3d"}, {})
        return False

    kfp.faults = [no_fault, other_client]
    assert submit(opened(kfp), bulk, PARAMETERS).run_id
    assert len(kfp.experiments) == 1
    kfp.experiments["x"] = {**next(iter(kfp.experiments.values())), "experiment_id": "x"}
    refused(lambda: submit(opened(kfp), bulk, PARAMETERS), "has 2 experiments named 'c3d'")


def test_unusable_options_are_refused():
    for options, message in (
        ({"experiment": " "}, "experiment is empty"),
        ({"service_account": "Default User"}, "service_account is 'Default User'"),
        ({"pipeline_root": "/tmp/x"}, "pipeline_root is '/tmp/x'"),
    ):
        refused(lambda options=options: RunOptions(**options), message, kind=UsageError)


# The model


def test_digest_of_the_served_model_is_looked_up(kfp, opened, bulk, narrow_server):
    parameters = {**PARAMETERS, "server": narrow_server.target, "model_digest": "ask"}
    submit(opened(kfp), bulk, parameters)
    digest = kfp.bodies[-1]["runtime_config"]["parameters"]["model_digest"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    from c3d_client import C3DClient

    with C3DClient(narrow_server.target) as client:
        assert digest == digest_of_model(Provenance(client.provenance()))


@pytest.mark.long
def test_digest_cannot_be_looked_up_without_a_server(kfp, opened, bulk):
    backend = opened(kfp)
    looked_up = {**PARAMETERS, "model_digest": "ask"}
    refused(lambda: submit(backend, bulk, looked_up), "give server=HOST:PORT", kind=UsageError)
    away = {**looked_up, "server": "127.0.0.1:1"}
    refused(lambda: submit(backend, bulk, away), "127.0.0.1:1", kind=ServingUnavailable)
    assert kfp.requests == []


# Credentials


def test_token_and_namespace_are_sent_to_a_backend_with_several_users(kfp, opened, bulk):
    kfp.multi_user, kfp.tokens = True, {SECRET: {"team-a"}}
    backend = opened(kfp, token=SECRET, namespace="team-a")
    backend.check()
    submit(backend, bulk, PARAMETERS)
    assert next(iter(kfp.experiments.values()))["namespace"] == "team-a"
    anonymous = opened(kfp, namespace="team-a")
    refused(
        lambda: submit(anonymous, bulk, PARAMETERS), "HTTP 401", "give --token-file or --pod-token"
    )
    other_team = opened(kfp, token=SECRET, namespace="team-b")
    refused(
        lambda: submit(other_team, bulk, PARAMETERS), "HTTP 403", "check the token and --namespace"
    )
    refused(opened(kfp, token=SECRET).check, "has several users; give --namespace")


def test_token_file_is_read_for_each_request(kfp, opened, bulk, tmp_path, caplog):
    path = tmp_path / "token"
    path.write_text("first\n")
    kfp.tokens = {"first": set()}
    backend = opened(kfp, token_file=str(path))
    sent = submit(backend, bulk, PARAMETERS)
    path.write_text("second\n")
    kfp.tokens = {"second": set()}
    assert wait(backend, sent, every_s=0.01).succeeded
    path.unlink()
    refused(lambda: backend.run(sent.run_id), f"{path}: the token cannot be read", kind=UsageError)
    assert caplog.text == ""


def test_cookie_is_sent(kfp, opened, bulk):
    submit(opened(kfp, cookie="authservice_session=1"), bulk, PARAMETERS)
    assert {headers["Cookie"] for headers in kfp.headers} == {"authservice_session=1"}


def test_certificate_is_checked_with_the_given_ca(tmp_path, opened, bulk):
    authority = Authority(tmp_path, "ca")
    mine = authority.identity("kfp", hosts=("127.0.0.1",))
    other = authority.identity("other", hosts=("elsewhere.example",))
    with fake_kfp(mine) as kfp:
        opened(kfp, ca=str(authority.cert)).check()
        refused(opened(kfp).check, f"{kfp.url}: no TLS connection", "give its CA with --ca")
    with fake_kfp(other) as kfp:
        refused(opened(kfp, ca=str(authority.cert)).check, "no TLS connection")


def test_http_and_https_mixed_up_is_reported(kfp, tmp_path, opened):
    kfp.url = kfp.url.replace("http:", "https:")
    refused(opened(kfp).check, "no TLS connection", "is it https?")
    with fake_kfp(Authority(tmp_path, "ca").identity("x", hosts=("127.0.0.1",))) as other:
        other.url = other.url.replace("https:", "http:")
        refused(opened(other).check, "the connection broke")


# The answer


def test_host_that_does_not_answer_is_reported(kfp, opened, caplog):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # without listening
        kfp.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        refused(opened(kfp).check, f"{kfp.url}: nothing answers there (Connection refused); is it")
    assert caplog.text == ""  # warnings of libraries would be on the screen
    kfp.url = "http://no-such-host.invalid:80"
    refused(opened(kfp).check, "no-such-host.invalid:80: there is no such host")


def test_address_of_the_server_is_checked_before_a_run_is_sent(kfp, opened, bulk):
    backend = opened(kfp)
    for server, problem in (
        ("c3d:99999", "its port is '99999'"),
        ("grpc://c3d", "grpc://"),
        ("local:/models/c3d", "for runs on one machine; give HOST:PORT"),
    ):
        refused(
            lambda server=server: submit(backend, bulk, PARAMETERS | {"server": server}), problem
        )
    assert not kfp.runs
    submit(backend, bulk, PARAMETERS | {"server": "configured"})
    submit(backend, bulk, PARAMETERS | {"server": "dns:///c3d"})
    assert len(kfp.runs) == 2


def test_server_that_does_not_answer_in_time_is_given_up(kfp, opened, bulk):
    backend = opened(kfp)

    def last_answer(handler) -> bool:
        """Answer this request; the client waits for a short time for the next answer."""
        backend._timeouts = {"_request_timeout": (LONG_S, 0.2)}
        return False

    kfp.faults = [no_answer]
    refused(opened(kfp, answer_s=0.2).check, "no answer in time")
    kfp.faults = [no_fault, last_answer, no_answer]
    refused(lambda: submit(backend, bulk, PARAMETERS), "no answer in time")
    # The run may have started, so the request is not repeated.
    sent = "POST /apis/v2beta1/runs"
    wait_until(lambda: sent in kfp.requests)  # the last one may not be read yet
    assert kfp.requests.count(sent) == 1


def test_broken_connection_is_reported(kfp, opened, bulk):
    kfp.faults = [hangs_up] * 5
    refused(opened(kfp).check, f"{kfp.url}: the connection broke")


def test_login_page_is_not_accepted_as_an_answer(kfp, opened, bulk):
    kfp.faults = [page("Sign in | Example")]
    message = "answers with a web page, 'Sign in | Example', instead of Kubeflow Pipelines' API"
    refused(opened(kfp).check, message)
    # Also later, when a session ends.
    kfp.faults = [no_fault, no_fault, page("Sign in")]
    refused(lambda: submit(opened(kfp), bulk, PARAMETERS), "without the run's id")


def test_token_is_not_sent_to_a_redirects_target(kfp, opened):
    with fake_kfp() as login:
        kfp.faults = [redirects(f"{login.url}/auth?state=hush")]
        target = f"redirects to {login.url}/auth (HTTP 302)"
        message = refused(opened(kfp, token=SECRET).check, target)
        assert "hush" not in message
        assert login.requests == []


def test_error_is_reported_with_the_servers_message(kfp, opened, bulk):
    for fault, message in (
        (fails(404), "has no such resource (HTTP 404: requested by the test); check --host"),
        (fails(500, "a\nb"), "answers HTTP 500: a b"),
        (page("Bad Gateway", 502), "answers HTTP 502: a web page, 'Bad Gateway'"),
        (fails(409, "Already exist"), "answers HTTP 409: Already exist"),
    ):
        kfp.experiments.clear()
        kfp.faults = [no_fault, no_fault, fault]
        refused(lambda: submit(opened(kfp), bulk, PARAMETERS), f"{kfp.url}: {message}")


def test_json_of_another_service_is_not_accepted(kfp, opened):
    def other(handler) -> bool:
        handler.answer(200, {"status": "ok"})
        return True

    kfp.faults = [other]
    refused(opened(kfp).check, "instead of Kubeflow Pipelines' API")


def test_backend_of_this_version_or_a_newer_one_is_accepted(kfp, opened):
    for tag in ("2.17.0", "2.18.1", "3.0.0", "v2.17.3", "unknown", "", "master"):
        kfp.tag = tag
        opened(kfp).check()


def test_older_backend_is_refused_unless_any_version_is_allowed(kfp, opened):
    for tag in ("2.16.4", "2.4.1", "1.8.22", "v2.0.5"):
        kfp.tag = tag
        message = f"is Kubeflow Pipelines {tag}, and pipelines are compiled with 2.17.0"
        refused(opened(kfp).check, message, "--any-version")
        opened(kfp).check(any_version=True)


# Waiting


def test_states_of_a_run_are_passed_on_until_its_end(kfp, opened, bulk):
    kfp.states = ["PENDING", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    backend, states = opened(kfp), []
    sent = submit(backend, bulk, PARAMETERS)
    ended = wait(backend, sent, every_s=0.01, on_state=lambda run: states.append(run.state))
    assert states == ["RUNNING", "SUCCEEDED"]
    assert (ended.succeeded, ended.ended, ended.message) == (True, True, "")


def test_failed_run_has_no_message_of_the_api(kfp, opened, bulk):
    """Kubeflow Pipelines 2.17 returns the names of a workflow's nodes and no errors."""
    kfp.states, kfp.steps = ["PENDING", "FAILED"], {"gate": ("Failed", "main: Error (exit code 1)")}
    backend = opened(kfp)
    ended = wait(backend, submit(backend, bulk, PARAMETERS), every_s=0.01)
    assert (ended.ended, ended.succeeded, ended.message) == (True, False, "")
    assert ("executor", "FAILED") in ended.tasks
    assert ended.arguments["out"] == PARAMETERS["out"]
    assert ended.arguments["stride"] == 8  # the pipeline's default


def test_messages_of_a_backend_that_has_them_are_kept(kfp, opened, bulk):
    kfp.states = ["PENDING", "FAILED"]
    backend = opened(kfp)
    sent = submit(backend, bulk, PARAMETERS)

    def failed(handler) -> bool:
        task = {"display_name": "gate", "state": "FAILED", "error": {"message": "3\nfailed"}}
        tasks = [task, {"display_name": "executor", "state": "FAILED", "error": {}}]
        error = {"code": 13, "message": "the run failed"}
        run = {**kfp.runs[sent.run_id], "state": "FAILED", "error": error}
        handler.answer(200, {**run, "run_details": {"task_details": tasks}})
        return True

    kfp.faults = [failed]
    assert backend.run(sent.run_id).message == "the run failed; gate: 3 failed"


def test_wait_ends_for_a_run_that_is_stopped(kfp, opened, bulk):
    for state in ("CANCELED", "SKIPPED"):
        kfp.states = ["PENDING", "CANCELING", state]
        backend = opened(kfp)
        ended = wait(backend, submit(backend, bulk, PARAMETERS), every_s=0.01)
        assert (ended.state, ended.succeeded) == (state, False)


def test_wait_continues_while_the_api_is_away_for_a_while(kfp, opened, bulk):
    sent = submit(opened(kfp), bulk, PARAMETERS)
    backend = opened(kfp, answer_s=1)
    kfp.faults = [fails(503), hangs_up, page("Bad Gateway", 502), no_answer, page("Restarting")]
    assert wait(backend, sent, every_s=0.01).succeeded
    assert kfp.faults == []


def test_wait_ends_when_the_api_stays_away(kfp, opened, bulk):
    backend = opened(kfp)
    sent = submit(backend, bulk, PARAMETERS)
    kfp.faults = [fails(503)] * 1000
    stays_away = lambda: wait(backend, sent, every_s=0.01, patience_s=0.2)  # noqa: E731
    refused(stays_away, "answers HTTP 503", f"the run goes on: {sent.run_id}")
    kfp.faults = [fails(403, "token expired")]
    refused(lambda: wait(backend, sent), "HTTP 403", f"the run goes on: {sent.run_id}")


def test_print_logging_and_threads_are_unchanged(kfp, opened, bulk):
    before = (print, sys.stdout, os.environ.copy(), threading.active_count())
    backend = opened(kfp)
    wait(backend, submit(backend, bulk, PARAMETERS), every_s=0.01)
    assert before[:3] == (print, sys.stdout, os.environ.copy())
    assert logging.getLogger().level == logging.WARNING
