"""One contract, where rendered objects do not show it: warm-up, exporter, client, the Job."""

from __future__ import annotations

import inspect
import re

from c3d_client.commands.options import MODEL_NAME as COMMAND_MODEL
from c3d_client.core import contract
from c3d_client.serving.options import ServingOptions
from c3d_export.cli import build
from c3d_export.servable import ServableSpec
from c3d_export.warmup import read_warmup, write_warmup

from k8s.bundle import K8S, objects
from k8s.contract_check import BASE_PATH
from k8s.objects import of_kind, servers
from k8s.protos import config


def command_default(command, option: str):
    return next(p.default for p in command.params if option in p.opts)


def test_an_export_warms_up_for_what_a_batching_server_may_form(tmp_path):
    assert command_default(build, "--batch-sizes") == ",".join(map(str, contract.BATCH_SIZES))
    assert inspect.signature(ServableSpec).parameters["batch_sizes"].default == contract.BATCH_SIZES
    write_warmup(tmp_path, batch_sizes=contract.BATCH_SIZES)
    asked = {}
    for request in read_warmup(tmp_path):
        (tensor,) = request.inputs.values()
        assert request.model_spec.name == contract.MODEL_NAME
        sizes = asked.setdefault(request.model_spec.signature_name, [])
        sizes.append(tensor.tensor_shape.dim[0].size)
    assert set(asked) == set(contract.SIGNATURES)
    (pod,) = servers(objects("base"))
    served = list(config(objects("base"), pod, "batching_parameters_file").allowed_batch_sizes)
    assert {tuple(s) for n, s in asked.items() if n != contract.MODEL_CARD.name} == {tuple(served)}


def test_the_client_asks_for_the_model_that_is_served():
    (pod,) = servers(objects("base"))
    (model,) = config(objects("base"), pod, "model_config_file").model_config_list.config
    assert ServingOptions().model == COMMAND_MODEL == model.name
    (service,) = [
        o for o in of_kind(objects("base"), "Service") if o["metadata"]["name"] == "c3d-grpc"
    ]
    assert ServingOptions().target.endswith(f":{service['spec']['ports'][0]['port']}")


def test_a_request_of_the_clients_is_never_larger_than_a_batch():
    (pod,) = servers(objects("base"))
    largest = config(objects("base"), pod, "batching_parameters_file").max_batch_size.value
    assert largest == contract.MAX_BATCH_SIZE >= ServingOptions().batch_size


def test_an_export_writes_where_the_server_reads():
    assert command_default(build, "--out").name == contract.MODEL_NAME
    script = (K8S / "jobs" / "export-model" / "export.sh").read_text()
    assert re.search(r"MODEL_STORE:-([^}]+)}", script)[1] == BASE_PATH
    used = set(re.findall(r"--[a-z-]+", script))
    assert used <= {option for p in build.params for option in p.opts}
