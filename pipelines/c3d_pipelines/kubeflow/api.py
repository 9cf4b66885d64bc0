"""Client of the REST API of Kubeflow Pipelines.

It uses the generated library below `kfp.Client`. `kfp.Client` itself waits for ever for a server
that does not answer and for a run that was cancelled, prints, and stores a namespace in the home
folder.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from typing import Any

from c3d_client.core import files
from c3d_client.core.errors import C3DError, UsageError
from c3d_client.core.retry import TRANSIENT_HTTP_STATUSES
from c3d_client.core.uri import redact

from c3d_pipelines.errors import RunError

_CONNECT_S, _ANSWER_S = 10.0, 60.0
_PAGE = 100
# Environment variables with the names that kfp uses.
HOST, UI_HOST = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
TOKEN, COOKIE = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"
# The variable with the path of the token that Kubeflow mounts into a notebook's pod, and the
# usual path.
POD_TOKEN = "KF_PIPELINES_SA_TOKEN_PATH"
POD_TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ENDED = frozenset(("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"))
_MOST_NAMED = 5


@dataclass(frozen=True)
class ClusterAccess:
    """Address of a Kubeflow Pipelines API and credentials of a user.

    Args:
        host: the API's URL: the part before ``/apis/v2beta1``, or before ``/#/`` in a browser.
        namespace: of the user's profile; empty if Kubeflow has a single user.
        token: sent with each request.
        token_file: a file with the token, read for each request, because tokens in pods are
            renewed.
        cookie: of a login in a browser.
        ca: a PEM file of the CAs to trust instead of the usual ones.
        ui: URL of the web interface; the host by default.

    Raises:
        UsageError: two values exclude each other, or the token cannot be read.
    """

    host: str
    namespace: str = ""
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    cookie: str | None = field(default=None, repr=False)
    ca: str | None = None
    ui: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _url(self.host))
        object.__setattr__(self, "ui", _url(self.ui) if self.ui else self.host)
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise UsageError(f"namespace is {self.namespace!r}; give a Kubernetes namespace's name")
        if self.token is not None and self.token_file is not None:
            raise UsageError("both a token and a file with a token; give one of them")
        for name, value in (("token", self.token), ("cookie", self.cookie)):
            if value is not None and not _is_header(value):
                raise UsageError(f"the {name} is empty or has several lines; check where it is set")
        self.current_token()
        if self.ca is not None:
            try:
                ssl.create_default_context(cafile=self.ca)
            except OSError as error:  # SSLError is one
                raise UsageError(f"{self.ca}: holds no CAs ({error.strerror or error})") from error

    def current_token(self) -> str | None:
        """Return the token for the next request; None without one.

        Raises:
            UsageError: the token's file cannot be read, or does not hold one printable line.
        """
        if self.token_file is None:
            return self.token
        token = files.read_token(self.token_file)
        if not _is_header(token):
            raise UsageError(f"{self.token_file}: holds no token of one line")
        return token


def find_access(
    *,
    host: str | None = None,
    namespace: str | None = None,
    token_file: str | None = None,
    pod_token: bool = False,
    ca: str | None = None,
) -> ClusterAccess:
    """Return address and credentials from the arguments and, for those not given, the environment.

    Args:
        host, namespace, token_file, ca: see :class:`ClusterAccess`.
        pod_token: use the token of this pod's service account.

    Raises:
        UsageError: no host is given, or a value cannot be used.
    """
    host = host or os.environ.get(HOST, "")
    if not host.strip():
        raise UsageError(f"no Kubeflow Pipelines named; give --host URL or set {HOST}")
    if pod_token and token_file:
        raise UsageError("both a file with a token and the pod's token; give one of them")
    if pod_token:
        token_file = os.environ.get(POD_TOKEN) or POD_TOKEN_FILE
    return ClusterAccess(
        host=host,
        namespace=namespace or "",
        token=None if token_file else (os.environ.get(TOKEN) or None),
        token_file=token_file,
        cookie=os.environ.get(COOKIE) or None,
        ca=ca,
        ui=os.environ.get(UI_HOST, ""),
    )


class Refused(RunError):
    """The API answered with an error, or not at all.

    Args:
        reason: what happened, with the host's name.
        status: the HTTP status; 0 without an answer.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        self.status = status
        super().__init__(reason)

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status == 0 or self.status in TRANSIENT_HTTP_STATUSES


@dataclass(frozen=True)
class SentRun:
    """A run on the cluster: its URL in a browser, its state, and the reason of its failure."""

    run_id: str
    name: str
    url: str
    state: str = "PENDING"
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.state in _ENDED

    @property
    def succeeded(self) -> bool:
        """Whether the run succeeded."""
        return self.state == "SUCCEEDED"


@dataclass(frozen=True)
class Schedule:
    """A schedule by which the cluster starts runs."""

    schedule_id: str
    name: str
    cron: str
    enabled: bool
    url: str


class Backend:
    """The API of one Kubeflow Pipelines installation. Each method raises RunError if it fails.

    Args:
        access: its address and the user's credentials.
        answer_s: how long an answer may take, in seconds.
    """

    def __init__(self, access: ClusterAccess, *, answer_s: float = _ANSWER_S) -> None:
        import kfp_server_api as api
        import urllib3

        self.access = access
        configuration = api.Configuration(host=access.host)
        configuration.ssl_ca_cert = access.ca
        # No redirect, which would send the token to a login page; and no request is sent twice.
        configuration.retries = urllib3.Retry(0, redirect=False)
        token = access.current_token()
        if token is not None:
            configuration.api_key["authorization"] = token
            configuration.api_key_prefix["authorization"] = "Bearer"
            # Called before each request.
            configuration.refresh_api_key_hook = lambda used: used.api_key.update(
                authorization=access.current_token()
            )
        self._api = api
        self._client = client = api.ApiClient(configuration, cookie=access.cookie)
        self._experiments = api.ExperimentServiceApi(client)
        self._runs = api.RunServiceApi(client)
        self._schedules = api.RecurringRunServiceApi(client)
        self._timeouts = {"_request_timeout": (_CONNECT_S, answer_s)}

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, *, any_version: bool = False) -> None:
        """Check that the host is a Kubeflow Pipelines API that this package can use.

        Args:
            any_version: accept a version that is older than the compiler's.

        Raises:
            RunError: the host is another service, its version is too old, or it requires a
                namespace.
        """
        service, host = self._api.HealthzServiceApi(self._client), self.access.host
        answer = self._call(service.healthz_service_get_healthz, _preload_content=False)
        try:
            health = json.loads(answer.data)
            multi_user, tag = bool(health["multi_user"]), str(health.get("tag_name", ""))
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{host}: answers with {_page(answer.data)} instead of Kubeflow Pipelines' API; "
                "give the address that comes before /apis/v2beta1 (often https://HOST/pipeline), "
                "and a token if it requires a login"
            ) from None
        if multi_user and not self.access.namespace:
            raise RunError(f"{host}: has several users; give --namespace, that of your profile")
        compiler = version_of("kfp")
        installed, required = _minor(tag), _minor(compiler)
        if installed and required and installed < required and not any_version:
            raise RunError(
                f"{host}: is Kubeflow Pipelines {tag}, and pipelines are compiled with {compiler}; "
                f"it must be {required[0]}.{required[1]} or newer (--any-version tries it all the "
                "same)"
            )

    def experiment(self, name: str, *, make: bool = True) -> str | None:
        """Return the id of the experiment of this name.

        Args:
            name: the experiment's name.
            make: create the experiment if it does not exist; else None is returned.
        """
        listed = self._experiments.experiment_service_list_experiments
        experiments = self._listed(listed, "experiments", name=name)
        if not experiments and not make:
            return None
        if not experiments:
            body = self._api.V2beta1Experiment(
                display_name=name, namespace=self.access.namespace or None
            )
            create = self._experiments.experiment_service_create_experiment
            try:
                return str(self._call(create, experiment=body).experiment_id)
            except Refused as error:
                if error.status != 409:
                    raise
                # Another client has just created it.
                experiments = self._listed(listed, "experiments", name=name)
        if len(experiments) != 1:
            raise RunError(f"{self.access.host}: has {len(experiments)} experiments named {name!r}")
        return str(experiments[0].experiment_id)

    def create_run(self, **fields: Any) -> SentRun:
        """Start a run with the fields of V2beta1Run."""
        body = self._api.V2beta1Run(**fields)
        return self._sent(self._call(self._runs.run_service_create_run, run=body))

    def run(self, run_id: str) -> SentRun:
        """Return a run in its current state."""
        return self._sent(self._call(self._runs.run_service_get_run, run_id=run_id))

    def create_schedule(self, *, cron: str, enabled: bool, **fields: Any) -> Schedule:
        """Create a schedule of runs with the fields of V2beta1RecurringRun."""
        api = self._api
        mode = api.RecurringRunMode.ENABLE if enabled else api.RecurringRunMode.DISABLE
        trigger = api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron))
        body = api.V2beta1RecurringRun(mode=mode, trigger=trigger, **fields)
        create = self._schedules.recurring_run_service_create_recurring_run
        return self._schedule(self._call(create, recurring_run=body))

    def schedules(self, name: str | None = None, *, experiment_id: str) -> list[Schedule]:
        """Return the schedules of an experiment, or those of one name."""
        listed = self._schedules.recurring_run_service_list_recurring_runs
        runs = self._listed(listed, "recurring_runs", name=name, experiment_id=experiment_id)
        return [self._schedule(run) for run in runs]

    def change_schedule(self, schedule_id: str, change: str) -> None:
        """Delete, enable or disable a schedule.

        Args:
            schedule_id: of the schedule.
            change: ``delete``, ``enable`` or ``disable``.
        """
        call = getattr(self._schedules, f"recurring_run_service_{change}_recurring_run")
        self._call(call, recurring_run_id=schedule_id)

    def _sent(self, run: Any) -> SentRun:
        if not run.run_id or not (run.state is None or isinstance(run.state, str)):
            raise Refused(f"{self.access.host}: answers without the run's id", 502)
        state = run.state or "PENDING"
        return SentRun(
            run_id=run.run_id,
            name=run.display_name or "",
            url=f"{self.access.ui}/#/runs/details/{run.run_id}",
            state="PENDING" if state == "RUNTIME_STATE_UNSPECIFIED" else state,
            message=_failure(run) if state in _ENDED and state != "SUCCEEDED" else "",
        )

    def _schedule(self, run: Any) -> Schedule:
        if not run.recurring_run_id:
            raise Refused(f"{self.access.host}: answers without the schedule's id", 502)
        times = run.trigger and run.trigger.cron_schedule
        return Schedule(
            schedule_id=run.recurring_run_id,
            name=run.display_name or "",
            cron=(times and times.cron) or "",
            enabled=run.mode == "ENABLE" if run.mode else run.status == "ENABLED",
            url=f"{self.access.ui}/#/recurringrun/details/{run.recurring_run_id}",
        )

    def _listed(
        self, call: Callable[..., Any], field_name: str, *, name: str | None, **query: Any
    ) -> list[Any]:
        """Return the items of all pages of a list."""
        if name is not None:
            equal = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
            query["filter"] = json.dumps({"predicates": [equal]})
        if self.access.namespace and "experiment_id" not in query:
            query["namespace"] = self.access.namespace
        items: list[Any] = []
        token = ""
        while True:
            page = self._call(call, page_size=_PAGE, page_token=token, **query)
            items += getattr(page, field_name) or []
            token = page.next_page_token or ""
            if not token:
                return items

    def _call(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Call the library; its errors are not chained, because they hold requests with tokens."""
        import urllib3.exceptions as http

        host = self.access.host
        try:
            return call(**arguments, **self._timeouts)
        except C3DError:
            raise
        except self._api.ApiException as error:
            raise Refused(f"{host}: {_error_answer(error)}", error.status or 0) from None
        except http.HTTPError as error:
            raise Refused(f"{host}: {_missing_answer(error)}") from None
        except (self._api.OpenApiException, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise Refused(
                f"{host}: answers what this client does not understand ({text})"
            ) from None


def _failure(run: Any) -> str:
    """Return why a run failed: its own message and those of the tasks that failed."""
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = {task.display_name: task for task in tasks if task.state == "FAILED"}
    messages = [
        f"{name}: {task.error.message}" if task.error and task.error.message else name
        for name, task in failed.items()
    ]
    if len(messages) > _MOST_NAMED:
        messages = [*messages[:_MOST_NAMED], f"and {len(messages) - _MOST_NAMED} more"]
    own = [run.error.message] if run.error and run.error.message else []
    return " ".join("; ".join(own + messages).split())


def _missing_answer(error: Exception) -> str:
    """Return why there was no answer, from an error of urllib3."""
    import urllib3.exceptions as http

    root: BaseException = getattr(error, "reason", None) or error
    text = str(root)
    if isinstance(root, http.SSLError):
        hint = "give its CA with --ca" if "CERTIFICATE_VERIFY" in text else "is it https?"
        return f"no TLS connection ({' '.join(text.split())}); {hint}"
    if isinstance(root, http.NameResolutionError):
        return "there is no such host"
    if isinstance(root, http.NewConnectionError):
        reason = text.rpartition("] ")[2] or text
        return f"nothing answers there ({reason}); is it the right address, or is a port forwarded?"
    if isinstance(root, http.TimeoutError):
        return "no answer in time; is it the right address, and is the cluster up?"
    return f"the connection broke ({' '.join(text.split())[:200]})"


def _error_answer(error: Any) -> str:
    """Return what an answer with an error status means, with the server's message."""
    status, body = error.status or 0, error.body or error.reason
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        answer = json.loads(text)
        message = str(answer.get("message") or answer.get("error_message") or answer.get("error"))
    except (ValueError, AttributeError):
        message = _page(text.encode()) if text.strip() else "no message"
    message = " ".join(message.split())[:400]
    if 300 <= status < 400:
        target = redact(str((error.headers or {}).get("Location", "elsewhere"))).partition("?")[0]
        return (
            f"redirects to {target} (HTTP {status}), as a login does; give a token, or that address"
        )
    if status == 401:
        return f"does not know the user (HTTP 401: {message}); give --token-file or --pod-token"
    if status == 403:
        return f"does not allow it (HTTP 403: {message}); check the token and --namespace"
    if status == 404:
        return f"has no such resource (HTTP 404: {message}); check --host and --namespace"
    return f"answers HTTP {status}: {message}"


def _page(body: bytes) -> str:
    """Return a short description of a body that is not JSON."""
    text = body[:20_000].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>([^<]*)", text, re.I)
    if title and title[1].strip():
        return f"a web page, {' '.join(title[1].split())[:80]!r},"
    return "a web page" if re.search(r"<(!doctype|html|body)", text, re.I) else "something else"


def _minor(version: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)\b", version)
    return (int(match[1]), int(match[2])) if match else None


def _is_header(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


def _url(text: str) -> str:
    """Return the API's base URL for an address that was typed or copied from a browser."""
    url = text.strip().partition("#")[0]
    url = url if "://" in url else f"https://{url}"
    if not re.fullmatch(r"https?://[^/@\s?]+(/[^\s?]*)?", url, re.I):
        shown = redact(url)
        raise UsageError(f"{shown}: is not the address of Kubeflow Pipelines; give https://HOST/…")
    return url.rstrip("/")
