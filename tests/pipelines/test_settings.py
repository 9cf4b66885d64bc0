"""The parameters of a bulk run: declared once, converted, and checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from c3d_client import ClipWindow, ServingOptions
from c3d_client.core.errors import UsageError
from c3d_client.core.provenance import Provenance
from c3d_pipelines.parameters import CLUSTER_SERVER, PARAMETERS, SERVER_VARIABLE, JobParameters
from c3d_pipelines.settings import JobSettings


def test_every_parameter_has_a_type_a_default_of_that_type_and_one_sentence_of_help():
    for name, parameter in PARAMETERS.items():
        assert parameter.name == name
        assert type(parameter.default) is parameter.type, name
        assert parameter.help == parameter.help.strip().rstrip("."), name
        assert parameter.convert(parameter.default) == parameter.default, name
        if parameter.choices:
            assert parameter.default in parameter.choices, name
        if parameter.low is not None:
            assert parameter.low <= parameter.default, name
        if parameter.high is not None:
            assert parameter.default <= parameter.high, name


def test_defaults_are_those_of_the_settings_and_of_the_client():
    parameters = JobParameters(out="out", server="localhost:8500")
    settings = JobSettings.from_parameters(parameters, run="r", answer="features")
    of_the_gate = {"max_failed": 0, "max_failed_share": 0.01}
    given = {"videos": parameters.videos, "out": "out", "server": "localhost:8500"}
    assert settings == replace(JobSettings("out", "r"), **of_the_gate, given=given)
    assert settings.window == JobParameters().window == ClipWindow()
    for name in ("batch_size", "max_in_flight", "timeout_s", "model"):
        assert getattr(settings.serving(), name) == getattr(ServingOptions(), name), name
    # A worker waits longer than a command, and the client does all of its waiting.
    assert settings.serving().patience_s == settings.patience_s == 600


def test_arguments_of_kubeflow_are_converted():
    parameters = JobParameters.of(
        {"out": "out", "stride": 4.0, "fps": 12.5, "workers": 2.0, "clip_rows": False}
    )
    assert JobParameters.of({"fps": 0.0}).window.fps is None
    settings = JobSettings.from_parameters(parameters, run="run-1", answer="classes")
    assert settings.window == ClipWindow(stride=4, fps=12.5)
    assert isinstance(settings.window.stride, int)
    assert (settings.workers, settings.clip_rows, settings.answer) == (2, False, "classes")


def test_wrong_parameters_are_one_line():
    for values, message in (
        ({"stride": 4.5}, "stride is 4.5; give a whole number"),
        ({"max_shards": float("nan")}, "max_shards is nan; give a whole number"),
        ({"max_shards": float("inf")}, "max_shards is inf; give a whole number"),
        ({"workers": "two"}, "workers is two; give a whole number"),
        ({"timeout_s": "long"}, "timeout_s is 'long'; give a float"),
        ({"retry_failed": "false"}, "retry_failed is 'false'; give True or False"),
        ({"strid": 4}, "strid: not a parameter of a bulk run"),
        ({"stride": 0}, "stride is 0"),
        ({"patience_s": -1.0}, "patience_s is -1.0; give 0 to 86400 seconds"),
        ({"workers": -1}, "workers is -1"),
        ({"out": " "}, "out is empty"),
    ):
        with pytest.raises(UsageError) as caught:
            JobSettings.from_parameters(
                JobParameters.of({"out": "out", **values}), run="r", answer="features"
            )
        assert message in str(caught.value), values
        assert "\n" not in str(caught.value), values


def test_configured_server_is_that_of_the_environment_or_of_the_cluster(monkeypatch):
    for variable, parameter, server in (
        (None, "configured", CLUSTER_SERVER),
        ("", "configured", CLUSTER_SERVER),
        ("dns:///other:8500\n", "configured", "dns:///other:8500"),
        ("other:8500", "here:8500", "here:8500"),
    ):
        if variable is None:
            monkeypatch.delenv(SERVER_VARIABLE, raising=False)
        else:
            monkeypatch.setenv(SERVER_VARIABLE, variable)
        settings = JobSettings.from_parameters(
            JobParameters(server=parameter), run="r", answer="features"
        )
        assert settings.server == server, (variable, parameter)


def test_tls_of_the_environment_is_on_or_off_or_refused(monkeypatch):
    for value, is_on in (("1", True), ("True", True), ("on", True), ("0", False), ("", False)):
        monkeypatch.setenv("C3D_TLS", value)
        assert JobSettings("out", "r").serving().tls == is_on, value
    monkeypatch.setenv("C3D_TLS", "enabled")
    with pytest.raises(UsageError, match="C3D_TLS is 'enabled'; give 1 or 0"):
        JobSettings("out", "r")


def test_provenance_is_a_provenance_and_reads_like_a_dictionary():
    plain = {"clips": {"stride": 8}, "later": 1}
    for provenance in (plain, Provenance(plain)):
        settings = JobSettings("out", "r", provenance=provenance)
        assert isinstance(settings.provenance, Provenance)
        assert settings.provenance == plain
        assert settings.provenance["clips"] == {"stride": 8}
        assert json.loads(settings.to_json())["provenance"] == plain
    assert not JobSettings("out", "r").provenance
