"""A compiled pipeline tells what it may be given, and what cannot be right is said at once."""

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
    with pytest.raises(RunError) as failed:
        call()
    said = str(failed.value)
    assert "\n" not in said
    for part in parts:
        assert part in said
    return said


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_sent_as_the_api_takes_it(name):
    package = Package(compiled_path(name))
    assert package.name == name
    spec = check_pipeline(package.to_body())
    check_parameters(spec, package.arguments({}))
    assert set(package.parameters) == set(spec.root.input_definitions.parameters)


def test_text_is_read_as_what_the_pipeline_wants(bulk):
    given = {
        "videos": "s3://films/a b",
        "stride": "4",
        "fps": "12.5",
        "shard_mb": "100",
        "clip_rows": "False",
        "retry_failed": "true",
        "model_version": "3",
    }
    read = bulk.arguments(given)
    assert read == {
        "videos": "s3://films/a b",
        "stride": 4,
        "fps": 12.5,
        "shard_mb": 100,
        "clip_rows": False,
        "retry_failed": True,
        "model_version": "3",
    }
    assert bulk.arguments(read) == read
    check_parameters(check_pipeline(bulk.to_body()), read)


@pytest.mark.parametrize(
    ("given", "said"),
    [
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
        ({"server": " "}, "server is ' ', not something"),
        ({"server": None}, "server is None, not text"),
    ],
)
def test_what_does_not_fit_is_refused(bulk, given, said):
    refused(lambda: bulk.arguments(given), "c3d-bulk-extraction: the parameters cannot be", said)


def test_all_that_does_not_fit_is_said_at_once(bulk):
    given = {"vidoes": "a", "stride": "x", "out": "/home/me/out"}
    refused(lambda: bulk.arguments(given), "'vidoes'", "stride is 'x'", "out is '/home/me/out'")


@pytest.mark.parametrize(
    "place",
    ["/home/me/films", "films", "./films", "/data2/films", "/data/../etc", "file:///films", "~/a"],
)
@pytest.mark.parametrize("name", ["videos", "out"])
def test_a_path_that_the_pods_do_not_see_is_refused(bulk, name, place):
    said = f"{name} is {place!r}, a path that the pods do not see"
    refused(lambda: bulk.arguments({name: place}), said, "mounted volume (/data)")


@pytest.mark.parametrize(
    "place",
    ["/data/films", "/data", "/data/films/*.mp4", "file:///data/a", "s3://a", "gs://a/b"],
)
def test_a_path_on_a_mounted_volume_or_in_a_bucket_is_taken(bulk, place):
    assert bulk.arguments({"videos": place}) == {"videos": place}


def test_defaults_are_held_against_the_mounts_too(tmp_path):
    cluster = ClusterSettings(pvc_mounts={"films": "/films", "sets": "/sets"})
    compile_pipeline(EXTRACTION, tmp_path / "p.yaml", cluster)
    package = Package(tmp_path / "p.yaml")
    assert package.mounts == ["/films", "/sets"]
    refused(lambda: package.arguments({}), "videos is '/data/videos'", "(/films or /sets)")
    assert package.arguments({"videos": "/films/x", "out": "/sets/y"})
    spec = (tmp_path / "p.yaml").read_text().partition("\n---\n")[0]
    (tmp_path / "q.yaml").write_text(spec)
    refused(lambda: Package(tmp_path / "q.yaml").arguments({}), "(none is mounted)")


def test_the_model_store_is_a_mounted_volume():
    package = Package(compiled_path(EXPORT))
    assert package.mounts == ["/models"]
    refused(lambda: package.arguments({"store": "/home/me"}), "store is '/home/me'")


def test_credentials_in_an_address_are_refused_without_being_said(bulk):
    for uri in ("s3://key:hush@films/a", "https://host/list.csv?sig=hush"):
        said = refused(lambda uri=uri: bulk.arguments({"videos": uri}), "videos holds credentials")
        assert "hush" not in said
    assert "hush" not in refused(lambda: bulk.arguments({"stride": "s3://me:hush@x"}))


def test_parameters_of_more_than_the_backend_takes_are_refused(bulk):
    """To the byte, counted as the backend counts."""
    spec = check_pipeline(bulk.to_body())

    def fits(server: str) -> bool:
        try:
            check_parameters(spec, {"server": server})
        except Refusal:
            return False
        return True

    for mark in ("a", "ü", "&", '"', "日"):
        most = next(n for n in range(MAX_PARAMETER_BYTES, 0, -1) if fits(mark * n))
        assert bulk.arguments({"server": mark * most})
        said = f"bytes, and Kubeflow takes {MAX_PARAMETER_BYTES}; server is the longest"
        refused(lambda mark=mark, most=most: bulk.arguments({"server": mark * (most + 1)}), said)


def test_a_parameter_without_a_default_must_be_given(tmp_path):
    documents = list(yaml.safe_load_all(compiled_path(EXTRACTION).read_text()))
    del documents[0]["root"]["inputDefinitions"]["parameters"]["server"]["defaultValue"]
    del documents[0]["root"]["inputDefinitions"]["parameters"]["server"]["isOptional"]
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    package = Package(path)
    refused(lambda: package.arguments({}), "server is missing")
    assert package.arguments({"server": "c3d:8500"})


def test_without_cache_no_task_takes_earlier_results(bulk):
    def cached(body) -> list[str]:
        spec = body["pipeline_spec"]
        parts = [spec["root"], *spec["components"].values()]
        tasks = [task for part in parts for task in part.get("dag", {}).get("tasks", {}).items()]
        assert len(tasks) > 6
        return [name for name, one in tasks if one.get("cachingOptions", {}).get("enableCache")]

    assert cached(bulk.to_body())
    assert cached(bulk.to_body(cached=False)) == []
    check_pipeline(bulk.to_body(cached=False))
    assert cached(bulk.to_body()), "the package itself is not changed"


@pytest.mark.parametrize(
    "text",
    [
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
    ],
)
def test_what_is_no_pipeline_is_refused(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    refused(lambda: Package(path), f"{path}: is not a pipeline that c3d-pipelines compile wrote")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    refused(lambda: Package(tmp_path / "gone.yaml"), "gone.yaml: cannot be read (No such file")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    refused(lambda: Package(tmp_path / "bytes.yaml"), "bytes.yaml: is not a pipeline")


def test_any_name_of_a_file_will_do(tmp_path):
    path = tmp_path / "ü a.txt"
    shutil.copy(compiled_path(EXTRACTION), path)
    assert Package(path).name == EXTRACTION


def test_arguments_are_shown_without_what_is_secret():
    text = shown({"videos": "https://a:b@host/x?sig=hush", "stride": 4, "clip_rows": True})
    assert text == "videos=https://***@host/x?sig=***, stride=4, clip_rows=true"
    assert json.loads(json.dumps(text)) == text
