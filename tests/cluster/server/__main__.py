"""The server's process.

As PID 1 of a container it is a supervisor that ignores SIGTERM, as TensorFlow Serving's binary does
there, and the server is its child; it exits with the child's code. So a test can kill the server
with SIGKILL, which the kernel refuses for PID 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from google.protobuf import text_format

from cluster.server.flags import FILES, SettingsError, parse_config, parse_flags

# What TensorFlow Serving's main returns for every failure: -1.
_FAILURE = 255
# Flags that this server implements, or that change nothing which it does (below).
IMPLEMENTED = {
    *("port", "rest_api_port", "model_name", "model_base_path", *FILES),
    *("allow_version_labels_for_unavailable_models", "enable_batching", "enable_model_warmup"),
    *("file_system_poll_wait_seconds", "max_num_load_retries", "load_retry_interval_micros"),
    *("tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"),
    *("grpc_channel_arguments", "grpc_max_threads", "enable_grpc_healthcheck_service"),
    # There is no profiler, and no GPU.
    *("enable_profiler", "per_process_gpu_memory_fraction"),
}


def main() -> None:
    """Run the server, or as PID 1 its supervisor."""
    # As the real binary, which handles no signal.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() == 1:
        child = os.fork()
        if child:
            os._exit(_exit_code(child))
    try:
        _serve(sys.argv[1:])
    except (SettingsError, RuntimeError, OSError) as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr, flush=True)
        # Threads may still load a version.
        os._exit(_FAILURE)


def _exit_code(child: int) -> int:
    while True:
        process, status = os.wait()
        if process == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _serve(arguments: list[str]) -> NoReturn:
    flags = parse_flags(arguments)
    for name in flags:
        if name not in IMPLEMENTED:
            raise SettingsError(f"--{name}: the test server does not have this flag")
    if not flags.get("port"):
        raise SettingsError("server_options.grpc_port is not set.")
    files = {name: _read(name, flags[name]) for name in FILES if name in flags}
    config = files.get("model_config_file") or _single_model(flags)
    _check_models(config, flags)
    batching = _batching(files.get("batching_parameters_file"), flags)
    for pool in ("intra", "inter"):
        threads = flags.get(f"tensorflow_{pool}_op_parallelism")
        if threads is not None:
            os.environ[f"TF_NUM_{pool.upper()}OP_THREADS"] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Loading TensorFlow takes seconds: it happens after the settings are checked. A third of that
    # is Keras, which no server needs, and TensorFlow does without.
    sys.modules["keras"] = None  # type: ignore[assignment]
    from cluster.server import grpc_api, rest_api
    from cluster.server.models import log
    from cluster.server.service import Service

    service = Service(config, flags, batching)
    for model in service.models.values():
        model.start()
    for model in service.models.values():
        model.wait()
    server = grpc_api.start(service, flags, files.get("ssl_config_file"))
    log(f"Running gRPC ModelServer at 0.0.0.0:{flags['port']} ...")
    if flags.get("rest_api_port"):
        monitoring = files.get("monitoring_config_file") or parse_config("MonitoringConfig", "")
        # The default of TensorFlow Serving's prometheus_exporter.cc.
        path = monitoring.prometheus_config.path or "/monitoring/prometheus/metrics"
        enabled = monitoring.prometheus_config.enable
        rest_api.start(service, flags["rest_api_port"], path if enabled else None)
        log(f"Exporting HTTP/REST API at:localhost:{flags['rest_api_port']} ...")
    server.wait_for_termination()
    sys.exit(0)


def _read(flag: str, path: str) -> Any:
    try:
        return parse_config(FILES[flag], Path(path).read_text())
    except (text_format.ParseError, OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"Invalid protobuf file: '{path}': {error}") from error


def _single_model(flags: Mapping[str, Any]) -> Any:
    if "model_base_path" not in flags:
        raise SettingsError(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    config = parse_config("ModelServerConfig", "")
    config.model_config_list.config.add(
        name=flags.get("model_name", "default"),
        base_path=flags["model_base_path"],
        model_platform="tensorflow",
    )
    return config


def _check_models(config: Any, flags: Mapping[str, Any]) -> None:
    models = config.model_config_list.config
    if not models:
        raise SettingsError("the model config lists no model")
    for model in models:
        if model.model_platform != "tensorflow" or not model.name:
            raise SettingsError(
                f"model {model.name!r} with model_platform {model.model_platform!r}"
            )
        if not model.base_path.startswith("/"):
            raise SettingsError(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()="
                f"{model.base_path}"
            )
        for version in model.version_labels.values():
            # No version is available before the start.
            if not flags.get("allow_version_labels_for_unavailable_models"):
                raise SettingsError(
                    f"Request to assign label to version {version} of model {model.name}, which "
                    "is not currently available for inference"
                )


def _batching(parameters: Any, flags: Mapping[str, Any]) -> Any:
    """Return the BatchingParameters with the defaults filled in; None without batching."""
    if not flags.get("enable_batching"):
        return None
    parameters = parameters or parse_config("BatchingParameters", "")
    # The defaults of TensorFlow's basic_batch_scheduler.h.
    for field, default in (("max_batch_size", 1000), ("max_enqueued_batches", 10)):
        if not parameters.HasField(field):
            getattr(parameters, field).value = default
    sizes, largest = list(parameters.allowed_batch_sizes), parameters.max_batch_size.value
    if sizes != sorted(set(sizes)) or (sizes and sizes[-1] != largest):
        raise SettingsError(
            f"allowed_batch_sizes {sizes} must increase, and end at max_batch_size {largest}"
        )
    return parameters


if __name__ == "__main__":
    main()
