"""A compiled pipeline as the API receives it; its parameters, checked before a request."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from c3d_pipelines.errors import RunError
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.compile import (
    EXPORT,
    EXTRACTION,
    PIPELINES,
    compile_pipeline,
    compiled_path,
)
from c3d_pipelines.kubeflow.submit import MAX_PARAMETER_BYTES, Package, shown
from support.kfp_rules import Refusal, check_parameters, check_pipeline


@pytest.fixture(scope="module")
def bulk() -> Package:
    return Package(compiled_path(EXTRACTION))


def refused(call, *parts: str) -> str:
    """Check that a call raises RunError with these parts in its message."""
    with pytest.raises(RunError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize("name", PIPELINES)
def test_body_is_accepted_by_the_api(name):
    package = Package(compiled_path(name))
    assert package.name == name
    spec = check_pipeline(package.to_body())
    check_parameters(spec, package.arguments({}))
    assert set(package.parameters) == set(spec.root.input_definitions.parameters)


def test_text_is_converted_to_the_parameters_types(bulk):
    given = {
        "videos": "s3://bucket/a b",
        "stride": "4",
        "fps": "12.5",
        "shard_mb": "100",
        "clip_rows": "False",
        "retry_failed": "true",
        "model_version": "3",
    }
    arguments = bulk.arguments(given)
    assert arguments == {
        "videos": "s3://bucket/a b",
        "stride": 4,
        "fps": 12.5,
        "shard_mb": 100,
        "clip_rows": False,
        "retry_failed": True,
        "model_version": "3",
    }
    assert bulk.arguments(arguments) == arguments
    check_parameters(check_pipeline(bulk.to_body()), arguments)


def test_unusable_parameter_is_refused(bulk):
    for given, problem in (
        ({"vidoes": "s3://a/b"}, "there is no parameter 'vidoes'; did you mean videos?"),
        ({"zzz": "1"}, "there is no parameter 'zzz'; there are "),
        ({"stride": "four"}, "stride is 'four', not a whole number"),
        ({"stride": "4.5"}, "stride is '4.5', not a whole number"),
        ({"stride": True}, "stride is True, not a whole number"),
        ({"fps": "NaN"}, "fps is 'NaN', not a number"),
        ({"fps": "1e999"}, "fps is '1e999', not a number"),
        ({"clip_rows": "yes"}, "clip_rows is 'yes', not true or false"),
        ({"clip_rows": 1}, "clip_rows is 1, not true or false"),
        ({"server": 8500}, "server is 8500, not text"),
        ({"server": " "}, "server is ' ', not a value"),
        ({"server": None}, "server is None, not text"),
        ({"max_shards": "201"}, "max_shards is 201; give 200 or fewer: at about 300 shards"),
    ):
        message = "c3d-bulk-extraction: the parameters cannot be"
        refused(lambda given=given: bulk.arguments(given), message, problem)


def test_all_problems_are_named_at_once(bulk):
    given = {"vidoes": "a", "stride": "x", "out": "/home/me/out"}
    refused(lambda: bulk.arguments(given), "'vidoes'", "stride is 'x'", "out is '/home/me/out'")


def test_path_outside_of_the_mounted_volumes_is_refused(bulk):
    outside = ("/home/me/a", "videos", "./videos", "/data2/a", "/data/../etc", "file:///a", "~/a")
    for name in ("videos", "out", "pca"):
        for path in outside:
            message = f"{name} is {path!r}, a path that the pods do not see"
            given = {name: path}
            refused(lambda given=given: bulk.arguments(given), message, "mounted volume (/data)")


def test_path_on_a_mounted_volume_or_in_a_bucket_is_accepted(bulk):
    uris = ("/data/a", "/data", "/data/a/*.mp4", "file:///data/a", "s3://a", "gs://a/b")
    for uri in uris:
        assert bulk.arguments({"videos": uri}) == {"videos": uri}


def test_defaults_are_compared_with_the_mounts_too(tmp_path):
    cluster = ClusterSettings(pvc_mounts={"videos": "/videos", "sets": "/sets"})
    compile_pipeline(EXTRACTION, tmp_path / "p.yaml", cluster)
    package = Package(tmp_path / "p.yaml")
    assert package.mounts == ["/sets", "/videos"]
    refused(lambda: package.arguments({}), "videos is '/data/videos'", "(/sets or /videos)")
    assert package.arguments({"videos": "/videos/x", "out": "/sets/y"})
    spec = (tmp_path / "p.yaml").read_text().partition("\n---\n")[0]
    (tmp_path / "q.yaml").write_text(spec)
    refused(lambda: Package(tmp_path / "q.yaml").arguments({}), "(none is mounted)")


def test_model_store_is_a_mounted_volume():
    package = Package(compiled_path(EXPORT))
    assert package.mounts == ["/models"]
    refused(lambda: package.arguments({"store": "/home/me"}), "store is '/home/me'")


def test_credentials_in_an_address_are_refused_and_not_shown(bulk):
    for uri in ("s3://key:hush@bucket/a", "https://host/list.csv?sig=hush"):
        message = refused(
            lambda uri=uri: bulk.arguments({"videos": uri}), "videos holds credentials"
        )
        assert "hush" not in message
    assert "hush" not in refused(lambda: bulk.arguments({"stride": "s3://me:hush@x"}))


def test_parameters_that_are_too_long_for_the_backend_are_refused(bulk):
    """The limit is exact: it counts bytes as the backend does."""
    spec = check_pipeline(bulk.to_body())

    def fits(server: str) -> bool:
        try:
            check_parameters(spec, {"server": server})
        except Refusal:
            return False
        return True

    for character in ("a", "ü", "&", '"', "日"):
        most = next(n for n in range(MAX_PARAMETER_BYTES, 0, -1) if fits(character * n))
        assert bulk.arguments({"server": character * most})
        message = f"bytes, and Kubeflow accepts {MAX_PARAMETER_BYTES}; server is the longest"
        too_long = {"server": character * (most + 1)}
        refused(lambda given=too_long: bulk.arguments(given), message)


def test_parameter_without_a_default_is_required(tmp_path):
    documents = list(yaml.safe_load_all(compiled_path(EXTRACTION).read_text()))
    del documents[0]["root"]["inputDefinitions"]["parameters"]["server"]["defaultValue"]
    del documents[0]["root"]["inputDefinitions"]["parameters"]["server"]["isOptional"]
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    package = Package(path)
    refused(lambda: package.arguments({}), "server is missing")
    assert package.arguments({"server": "c3d:8500"})


def test_file_that_is_not_a_pipeline_is_refused(tmp_path):
    path = tmp_path / "p.yaml"
    message = f"{path}: is not a pipeline that c3d-pipelines compile wrote"
    for text in (
        "",
        "just words",
        "- a\n- list",
        "a: b",
        "a: [",
        "\x00",
        "pipelineInfo: {name: x}\nnoSuchField: 1",
        "pipelineInfo: {}\nroot: {}",
        "pipelineInfo: 1",
        "pipelineInfo: {name: x}\n---\na: 1\n",
        "pipelineInfo: {name: x}\n---\nplatforms: {}\n---\nplatforms: {}\n",
    ):
        path.write_text(text)
        refused(lambda: Package(path), message)


def test_unreadable_file_is_refused(tmp_path):
    refused(lambda: Package(tmp_path / "gone.yaml"), "gone.yaml: cannot be read (No such file")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    refused(lambda: Package(tmp_path / "bytes.yaml"), "bytes.yaml: is not a pipeline")


def test_file_may_have_any_name(tmp_path):
    path = tmp_path / "ü a.txt"
    shutil.copy(compiled_path(EXTRACTION), path)
    assert Package(path).name == EXTRACTION


def test_arguments_are_shown_with_secrets_redacted():
    text = shown({"videos": "https://a:b@host/x?sig=hush", "stride": 4, "clip_rows": True})
    assert text == "videos=https://***@host/x?sig=***, stride=4, clip_rows=true"
    assert json.loads(json.dumps(text)) == text
