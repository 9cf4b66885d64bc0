"""The server's flags: real ones, with values of their type, that go together.

A mistyped flag only prints "unknown argument" and the server starts without it. The list is
`tensorflow_model_server`'s own at 2.20 (model_servers/main.cc).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from k8s.bundle import Object
from k8s.objects import flags as given_flags
from k8s.objects import servers

BINARY = "/usr/bin/tensorflow_model_server"
_WHOLE = r"-?[0-9]+|\$\([A-Z_]+\)"
_TYPES = {
    "int": re.compile(_WHOLE),
    "bool": re.compile(r"true|false"),
    "float": re.compile(r"0(\.[0-9]+)?|1(\.0+)?"),
    "file": re.compile(r"/[^\s]+"),
    "text": re.compile(r".+"),
    "pairs": re.compile(r"grpc\.[a-z_]+=[^,=\s]+(,grpc\.[a-z_]+=[^,=\s]+)*"),
}
FLAGS = {
    "port": "int",
    "grpc_socket_path": "file",
    "rest_api_port": "int",
    "rest_api_num_threads": "int",
    "rest_api_timeout_in_ms": "int",
    "rest_api_enable_cors_support": "bool",
    "enable_batching": "bool",
    "allow_version_labels_for_unavailable_models": "bool",
    "batching_parameters_file": "file",
    "enable_per_model_batching_parameters": "bool",
    "model_config_file": "file",
    "model_config_file_poll_wait_seconds": "int",
    "model_name": "text",
    "model_base_path": "text",
    "num_load_threads": "int",
    "num_unload_threads": "int",
    "max_num_load_retries": "int",
    "load_retry_interval_micros": "int",
    "file_system_poll_wait_seconds": "int",
    "flush_filesystem_caches": "bool",
    "tensorflow_session_parallelism": "int",
    "tensorflow_session_config_file": "file",
    "tensorflow_intra_op_parallelism": "int",
    "tensorflow_inter_op_parallelism": "int",
    "use_alts_credentials": "bool",
    "ssl_config_file": "file",
    "platform_config_file": "file",
    "per_process_gpu_memory_fraction": "float",
    "saved_model_tags": "text",
    "grpc_channel_arguments": "pairs",
    "grpc_max_threads": "int",
    "enable_model_warmup": "bool",
    "num_request_iterations_for_warmup": "int",
    "monitoring_config_file": "file",
    "remove_unused_fields_from_bundle_metagraph": "bool",
    "enable_signature_method_name_check": "bool",
    "enable_profiler": "bool",
    "thread_pool_factory_config_file": "file",
    "mixed_precision": "text",
    "enable_grpc_healthcheck_service": "bool",
    "enable_serialization_as_tensor_content": "bool",
}
_PARALLELISM = {f"tensorflow_{kind}_parallelism" for kind in ("session", "intra_op", "inter_op")}
# What every server of ours says, and why a default would not do.
_REQUIRED = {
    "enable_profiler": ("false", "it shares the port and answers anybody"),
    "enable_grpc_healthcheck_service": ("true", "clients and probes ask it"),
    "enable_batching": ("true", "clips of several clients share a batch"),
}
_SAID = {
    "tensorflow_intra_op_parallelism": "the node's cores would be counted, not the pod's",
    "grpc_max_threads": "four a core of the node would be the limit of requests in flight",
}
# Without one of these the named flag is an error or does nothing.
_NEEDS = {
    "batching_parameters_file": "enable_batching",
    "model_config_file_poll_wait_seconds": "model_config_file",
}
_EXCLUDES = {"model_config_file": ("model_name", "model_base_path")}


def flags(objects: list[Object]) -> list[str]:
    """Every flag of every server is real, has a value of its type, and fits the others."""
    found = []
    for pod in servers(objects):
        assert pod.server is not None
        found += [f"{pod.where}: {problem}" for problem in _server(pod.server)]
    return found


def _server(container: Object) -> Iterator[str]:
    if (container.get("command") or [""])[0] != BINARY:
        yield f"command is not {BINARY}: the image's script would swallow SIGTERM"
    words = [*(container.get("command") or ())[1:], *(container.get("args") or ())]
    yield from (f"{word} is no --flag=value" for word in words if not word.startswith("--"))
    names = [w.removeprefix("--").partition("=")[0] for w in words]
    yield from (f"--{n} is given {times} times" for n, times in Counter(names).items() if times > 1)
    given = given_flags(container)
    for name, value in given.items():
        if name not in FLAGS:
            yield f"--{name} is no flag of TensorFlow Serving"
        elif not _TYPES[FLAGS[name]].fullmatch(value):
            yield f"--{name}={value}: not a {FLAGS[name]}"
    if set(given) >= _PARALLELISM:
        yield f"all three of {', '.join(sorted(_PARALLELISM))}: the server refuses that"
    for name, (value, reason) in _REQUIRED.items():
        if given.get(name) != value:
            yield f"--{name} is {given.get(name)}, not {value}: {reason}"
    yield from (f"no --{name}: {reason}" for name, reason in _SAID.items() if name not in given)
    for name, other in _NEEDS.items():
        if name in given and given.get(other) in (None, "false"):
            yield f"--{name} needs --{other}"
    for name, others in _EXCLUDES.items():
        for other in others:
            if name in given and other in given:
                yield f"--{other} is ignored beside --{name}"
