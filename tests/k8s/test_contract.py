"""The contract where rendered objects do not show it: warm-up, exporter, client, export Job."""

from __future__ import annotations

import inspect
import re

import pytest
from c3d_client.commands.options import MODEL_NAME as COMMAND_MODEL
from c3d_client.core import contract
from c3d_client.serving.options import ServingOptions
from c3d_export.cli import build, fetch
from c3d_export.servable import ServableSpec
from c3d_export.warmup import read_warmup, write_warmup
from cluster.server.flags import parse_config

from k8s.contract import BASE_PATH
from k8s.objects import name, of_kind, servers
from k8s.render import K8S, objects_of
from k8s.server import config


@pytest.fixture
def batching():
    """The batching parameters of the base."""
    (pod,) = servers(objects_of("base"))
    return config(objects_of("base"), pod, "batching_parameters_file")


def command_default(command, option: str):
    return next(p.default for p in command.params if option in p.opts)


def test_an_export_warms_up_the_batch_sizes_of_the_server(batching, tmp_path):
    assert command_default(build, "--batch-sizes") == ",".join(map(str, contract.BATCH_SIZES))
    assert inspect.signature(ServableSpec).parameters["batch_sizes"].default == contract.BATCH_SIZES
    write_warmup(tmp_path, batch_sizes=contract.BATCH_SIZES)
    sizes: dict[str, list[int]] = {}
    for request in read_warmup(tmp_path):
        (tensor,) = request.inputs.values()
        assert request.model_spec.name == contract.MODEL_NAME
        signature = sizes.setdefault(request.model_spec.signature_name, [])
        signature.append(tensor.tensor_shape.dim[0].size)
    assert set(sizes) == set(contract.SIGNATURES)
    assert sizes[contract.FC6_FEATURES.name] == list(batching.allowed_batch_sizes)


def test_full_requests_of_a_client_are_merged_without_padding(batching):
    largest, size = batching.max_batch_size.value, ServingOptions().batch_size
    assert set(range(size, largest + 1, size)) <= set(batching.allowed_batch_sizes)


def test_documents_name_the_batch_sizes_of_the_server(batching):
    *first, last = map(str, batching.allowed_batch_sizes)
    text = f"{', '.join(first)} and {last}"
    for path in (
        K8S / "components" / "monitoring" / "dashboard.json",
        K8S.parent / "docs" / "servable.md",
    ):
        assert text in " ".join(path.read_text().split()), path


def test_no_batching_configuration_splits_requests():
    """A row of fc6_features_halves depends on the next one, which must be in the same batch.

    Merging keeps the rows of a request together; with large-batch splitting, the row before the
    split would be computed from a half of another place, or of another client's video.
    """
    files = sorted(K8S.rglob("batching*.config"))
    assert {file.parent.name for file in files} >= {"config", "gpu"}
    for file in files:
        batching = parse_config("BatchingParameters", file.read_text())
        assert not batching.enable_large_batch_splitting.value, file


def test_the_client_requests_the_model_and_port_that_are_served():
    (pod,) = servers(objects_of("base"))
    (model,) = config(objects_of("base"), pod, "model_config_file").model_config_list.config
    assert ServingOptions().model == COMMAND_MODEL == model.name
    (service,) = [o for o in of_kind(objects_of("base"), "Service") if name(o) == "c3d-grpc"]
    assert ServingOptions().target.endswith(f":{service['spec']['ports'][0]['port']}")


def test_a_request_of_the_client_fits_into_a_batch(batching):
    assert batching.max_batch_size.value == contract.MAX_BATCH_SIZE >= ServingOptions().batch_size


def test_an_export_writes_to_the_folder_that_the_server_reads():
    assert command_default(build, "--out").name == contract.MODEL_NAME
    script = (K8S / "jobs" / "export-model" / "export.sh").read_text()
    assert re.search(r"MODEL_STORE:-([^}]+)}", script)[1] == BASE_PATH
    used = set(re.findall(r"--[a-z0-9-]+", script))
    assert used <= {option for p in [*build.params, *fetch.params] for option in p.opts}
