"""Client of the Kubernetes API: the kubeconfig's current context, or a pod's own account.

It uses the official library `kubernetes`, which kfp brings. Kubeflow Pipelines' own API hides why
a pod does not start; Kubernetes' API has it, where the user may read it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from c3d_pipelines.errors import RunError

_CONNECT_S, _ANSWER_S = 3.0, 15.0
_DEFAULT_KUBECONFIG = "~/.kube/config"
# Where Kubernetes mounts the account of a pod.
_POD_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubeError(RunError):
    """The Kubernetes API refused a request or did not answer, or the kubeconfig is unusable.

    Args:
        reason: what happened, with the cluster's name, in one line.
        status: the HTTP status; 0 without an answer.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        self.status = status
        super().__init__(reason)


class Kube:
    """The Kubernetes API of one cluster; close it, or use it as a context manager.

    Args:
        client: `kubernetes.client.ApiClient`.
        name: of the cluster in messages.
        namespace: the namespace of the context or of the pod; ``default`` where it names none.
    """

    def __init__(self, client: Any, *, name: str, namespace: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.name, self.namespace = name, namespace
        self.core, self.custom = CoreV1Api(client), CustomObjectsApi(client)
        self._client = client

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def __enter__(self) -> Kube:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        """Return the answer to one request, which is sent once and has a short timeout.

        Args:
            method: of :attr:`core` or :attr:`custom`.
            arguments: of the method.

        Raises:
            KubeError: the API refused the request or did not answer. The library's error is not
                chained, because it holds the request with the token.
        """
        import urllib3.exceptions as http
        from kubernetes.client import ApiException
        from kubernetes.config import ConfigException

        arguments.setdefault("_request_timeout", (_CONNECT_S, _ANSWER_S))
        try:
            return method(**arguments)
        except ApiException as error:
            status = error.status or 0
            reason = f"answers HTTP {status}: {_message(error)}" if status else _message(error)
        except http.HTTPError as error:
            reason, status = f"no answer ({_one_line(getattr(error, 'reason', None) or error)})", 0
        except (ConfigException, OSError, ValueError, TypeError) as error:
            reason, status = f"unusable answer or account ({_one_line(error)})", 0
        raise KubeError(f"Kubernetes ({self.name}): {reason}", status) from None

    def found(self, method: Callable[..., Any], **arguments: Any) -> Any | None:
        """Return the answer to one request; None where there is no such object.

        Raises:
            KubeError: as :meth:`call`.
        """
        try:
            return self.call(method, **arguments)
        except KubeError as error:
            if error.status != 404:
                raise
            return None


def open_kube() -> Kube | None:
    """Return the Kubernetes API that this process has access to; sends no request.

    The kubeconfig (``KUBECONFIG``, else ``~/.kube/config``) comes first, as for kubectl, and then
    the account that Kubernetes mounts into a pod. Whether it is the cluster of Kubeflow Pipelines
    is for the caller to check.

    Returns:
        None where neither is there, and where the library is absent, as in a worker's image.

    Raises:
        KubeError: the kubeconfig or the pod's account cannot be used.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        return None
    import urllib3
    import yaml

    configuration = client.Configuration()
    # One attempt for each request.
    configuration.retries = urllib3.Retry(0, redirect=False)
    paths = os.environ.get("KUBECONFIG") or _DEFAULT_KUBECONFIG
    from_file = any(os.path.isfile(os.path.expanduser(p)) for p in paths.split(os.pathsep) if p)
    source = "kubeconfig" if from_file else "the pod's account"
    try:
        with _logged_errors() as errors:
            if from_file:
                context = config.list_kube_config_contexts(config_file=paths)[1]
                config.load_kube_config(config_file=paths, client_configuration=configuration)
                name = f"context {context['name']}"
                namespace = context["context"].get("namespace") or "default"
            elif os.path.isfile(f"{_POD_ACCOUNT}/token"):
                config.load_incluster_config(client_configuration=configuration)
                name = "the pod's cluster"
                with open(f"{_POD_ACCOUNT}/namespace", encoding="utf-8") as file:
                    namespace = file.read().strip()
            else:
                return None
        if errors:  # of a program that the kubeconfig names, which the library does not raise
            raise ValueError(errors[0])
        return Kube(client.ApiClient(configuration), name=name, namespace=namespace)
    except (
        config.ConfigException,
        yaml.YAMLError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise KubeError(f"{source}: cannot be used ({_one_line(error)})") from None


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collect what libraries log as errors with the root logger, and print none of it."""
    texts: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR and record.name == "root":
                texts.append(record.getMessage())

    handler = Collector()
    logging.getLogger().addHandler(handler)
    try:
        yield texts
    finally:
        logging.getLogger().removeHandler(handler)


def _message(error: Any) -> str:
    """Return the message of an error answer."""
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else error.body
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason or "no message"
    return _one_line(message)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300] or type(text).__name__
