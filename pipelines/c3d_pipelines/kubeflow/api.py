"""A cluster's Kubeflow Pipelines behind their REST API; only this file knows its client library.

Below `kfp.Client`, which waits for ever for a server that says nothing and for a run that was
cancelled, prints, and keeps a namespace in the home folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from typing import Any

from c3d_client.core.errors import C3DError, UsageError
from c3d_client.core.uri import redact

from c3d_pipelines.errors import RunError

_CONNECT_S, _ANSWER_S = 10.0, 60.0
_PAGE = 100


class Refused(RunError):
    """The API's answer was an error.

    Args:
        reason: what happened, naming the host.
        status: of HTTP; 0 where nobody answered.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        self.status = status
        super().__init__(reason)

    @property
    def passes(self) -> bool:
        """Whether it may go better the next time."""
        return self.status in (0, 408, 429, 500, 502, 503, 504)


class Backend:
    """The API of one Kubeflow Pipelines.

    Args:
        access: where it is and who asks.
        answer_s: how long an answer may take, in seconds.
    """

    def __init__(self, access: ClusterAccess, *, answer_s: float = _ANSWER_S) -> None:
        import kfp_server_api as api
        import urllib3

        self.access = access
        configuration = api.Configuration(host=access.host)
        configuration.ssl_ca_cert = access.ca
        # Nowhere else with the token, such as to a login page; and nothing is sent twice.
        configuration.retries = urllib3.Retry(0, redirect=False)
        token = access.current_token()
        if token is not None:
            configuration.api_key["authorization"] = token
            configuration.api_key_prefix["authorization"] = "Bearer"
            # Before each request.
            configuration.refresh_api_key_hook = lambda used: used.api_key.update(
                authorization=access.current_token()
            )
        self._api = api
        self._client = api.ApiClient(configuration, cookie=access.cookie)
        self._wait = {"_request_timeout": (_CONNECT_S, answer_s)}

    def close(self) -> None:
        """Close its connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, *, any_version: bool = False) -> None:
        """See that it is Kubeflow Pipelines, which takes what this package sends, for this user.

        Raises:
            RunError: it is not, is older than the compiler, or wants a namespace.
        """
        service = self._api.HealthzServiceApi(self._client)
        answer = self._call(service.healthz_service_get_healthz, _preload_content=False)
        try:
            said = json.loads(answer.data)
            users, tag = bool(said["multi_user"]), str(said.get("tag_name", ""))
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{self.access.host}: answers with {_page(answer.data)} instead of Kubeflow "
                "Pipelines' API; give the address that stands before /apis/v2beta1 (often "
                "https://HOST/pipeline), and a token if it asks for a login"
            ) from None
        if users and not self.access.namespace:
            raise RunError(
                f"{self.access.host}: has several users; give --namespace, that of your profile"
            )
        there, here = _minor(tag), _minor(version_of("kfp"))
        if there and here and there < here and not any_version:
            raise RunError(
                f"{self.access.host}: is Kubeflow Pipelines {tag}, and pipelines are compiled with "
                f"{version_of('kfp')}; it must be {here[0]}.{here[1]} or newer (--any-version "
                "tries it all the same)"
            )

    def experiment(self, name: str, *, make: bool = True) -> str | None:
        """The id of the experiment of this name, which is made where there is none.

        Raises:
            RunError: it cannot be found or made.
        """
        service = self._api.ExperimentServiceApi(self._client)
        list_all = service.experiment_service_list_experiments
        found = self._listed(list_all, "experiments", name=name)
        if not found and not make:
            return None
        if not found:
            body = self._api.V2beta1Experiment(
                display_name=name, namespace=self.access.namespace or None
            )
            try:
                made = self._call(service.experiment_service_create_experiment, experiment=body)
                return str(made.experiment_id)
            except Refused as error:
                if error.status != 409:
                    raise
                found = self._listed(list_all, "experiments", name=name)  # someone was faster
        if len(found) != 1:
            raise RunError(f"{self.access.host}: has {len(found)} experiments named {name!r}")
        return str(found[0].experiment_id)

    def create_run(self, **fields: Any) -> Any:
        """Start a run; the fields of V2beta1Run.

        Raises:
            RunError: it is refused.
        """
        service = self._api.RunServiceApi(self._client)
        return self._call(service.run_service_create_run, run=self._api.V2beta1Run(**fields))

    def run(self, run_id: str) -> Any:
        """A run as it is now.

        Raises:
            RunError: it cannot be asked for.
        """
        service = self._api.RunServiceApi(self._client)
        return self._call(service.run_service_get_run, run_id=run_id)

    def create_schedule(self, *, cron: str, enabled: bool, **fields: Any) -> Any:
        """Have runs started at times; the fields of V2beta1RecurringRun.

        Raises:
            RunError: it is refused.
        """
        api = self._api
        mode = api.RecurringRunMode.ENABLE if enabled else api.RecurringRunMode.DISABLE
        trigger = api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron))
        body = api.V2beta1RecurringRun(mode=mode, trigger=trigger, **fields)
        service = api.RecurringRunServiceApi(self._client)
        return self._call(service.recurring_run_service_create_recurring_run, recurring_run=body)

    def schedules(self, name: str | None = None, *, experiment_id: str) -> list[Any]:
        """The schedules of an experiment, or those of a name there.

        Raises:
            RunError: they cannot be listed.
        """
        service = self._api.RecurringRunServiceApi(self._client)
        return self._listed(
            service.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            name=name,
            experiment_id=experiment_id,
        )

    def change_schedule(self, schedule_id: str, what: str) -> None:
        """``delete``, ``enable`` or ``disable`` one.

        Raises:
            RunError: it is refused.
        """
        service = self._api.RecurringRunServiceApi(self._client)
        call = getattr(service, f"recurring_run_service_{what}_recurring_run")
        self._call(call, recurring_run_id=schedule_id)

    def _listed(
        self, call: Callable[..., Any], what: str, *, name: str | None, **query: Any
    ) -> list[Any]:
        if name is not None:
            equal = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
            query["filter"] = json.dumps({"predicates": [equal]})
        if self.access.namespace and "experiment_id" not in query:
            query["namespace"] = self.access.namespace
        found: list[Any] = []
        token = ""
        while True:
            page = self._call(call, page_size=_PAGE, page_token=token, **query)
            found += getattr(page, what) or []
            token = page.next_page_token or ""
            if not token:
                return found

    def _call(self, call: Callable[..., Any], **arguments: Any) -> Any:
        with self._told():
            return call(**arguments, **self._wait)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say what went wrong in one line. Not chained: the library's exceptions hold requests."""
        import urllib3.exceptions as http

        host = self.access.host
        try:
            yield
        except C3DError:
            raise
        except self._api.ApiException as error:
            said = _refusal(error.status or 0, error.body or error.reason, error.headers or {})
            raise Refused(f"{host}: {said}", error.status or 0) from None
        except http.HTTPError as error:
            raise Refused(f"{host}: {_silence(error)}") from None
        except (self._api.OpenApiException, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise Refused(
                f"{host}: answers what this client does not understand ({said})"
            ) from None


def _silence(error: Exception) -> str:
    """Why there was no answer, from what urllib3 says."""
    import urllib3.exceptions as http

    root: BaseException = getattr(error, "reason", None) or error
    text = str(root)
    if isinstance(root, http.SSLError):
        hint = "give its CA with --ca" if "CERTIFICATE_VERIFY" in text else "is it https?"
        return f"no TLS connection ({' '.join(text.split())}); {hint}"
    if isinstance(root, http.NameResolutionError):
        return "there is no such host"
    if isinstance(root, http.NewConnectionError):
        said = text.rpartition("] ")[2] or text
        return f"nobody answers there ({said}); is it the right address, or is a port forwarded?"
    if isinstance(root, http.TimeoutError):
        return "no answer in time; is it the right address, and is the cluster up?"
    return f"the connection broke ({' '.join(text.split())[:200]})"


def _refusal(status: int, body: Any, headers: Any) -> str:
    """What an answer that is an error says."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        answer = json.loads(text)
        said = str(answer.get("message") or answer.get("error_message") or answer.get("error"))
    except (ValueError, AttributeError):
        said = _page(text.encode()) if text.strip() else "nothing more"
    said = " ".join(said.split())[:400]
    if 300 <= status < 400:
        to = redact(str(headers.get("Location", "elsewhere")))
        to = re.sub(r"\?.*", "", to)
        return f"sends on to {to} (HTTP {status}), as a login does; give a token, or that address"
    if status == 401:
        return f"does not know who asks (HTTP 401: {said}); give --token-file or --pod-token"
    if status == 403:
        return f"does not allow it (HTTP 403: {said}); check the token and --namespace"
    if status == 404:
        return f"has no such thing (HTTP 404: {said}); check --host and --namespace"
    return f"answers HTTP {status}: {said}"


def _page(body: bytes) -> str:
    """What a body that is not JSON is, in a few words."""
    text = body[:20_000].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>([^<]*)", text, re.I)
    if title and title[1].strip():
        return f"a web page, {' '.join(title[1].split())[:80]!r},"
    return "a web page" if re.search(r"<(!doctype|html|body)", text, re.I) else "something else"


def _minor(version: str) -> tuple[int, int] | None:
    found = re.match(r"v?(\d+)\.(\d+)\b", version)
    return (int(found[1]), int(found[2])) if found else None


HOST, UI_HOST = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"  # kfp's own names
TOKEN, COOKIE = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"
# The token that Kubeflow mounts into its notebooks' pods, and the variable that names it.
POD_TOKEN, POD_TOKEN_FILE = (
    "KF_PIPELINES_SA_TOKEN_PATH",
    ("/var/run/secrets/kubeflow/pipelines/token"),
)

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class ClusterAccess:
    """Where Kubeflow Pipelines are, and who asks there.

    Args:
        host: the API's URL: what stands before ``/apis/v2beta1``, or before ``/#/`` in a browser.
        namespace: of the user's profile; empty where Kubeflow has a single user.
        token: sent with each request as it is.
        token_file: instead of it a file, read again for each request: tokens in pods are renewed.
        cookie: of a login in a browser.
        ca: a PEM file of the CAs to trust instead of the usual ones.
        ui: where people look at runs; the host by default.

    Raises:
        UsageError: they do not go together, or the token cannot be read.
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
            raise UsageError("a token and a file with a token; give one of them")
        for name, value in (("token", self.token), ("cookie", self.cookie)):
            if value is not None and not _is_header(value):
                raise UsageError(
                    f"the {name} is empty or of several lines; see where it comes from"
                )
        self.current_token()
        if self.ca is not None:
            try:
                ssl.create_default_context(cafile=self.ca)
            except OSError as error:  # SSLError is one
                raise UsageError(f"{self.ca}: holds no CAs ({error.strerror or error})") from error

    def current_token(self) -> str | None:
        """The token to send now; None for none.

        Raises:
            UsageError: its file cannot be read, or holds none.
        """
        return self.token if self.token_file is None else read_token(self.token_file)


def find_access(
    *,
    host: str | None = None,
    namespace: str | None = None,
    token_file: str | None = None,
    pod_token: bool = False,
    ca: str | None = None,
) -> ClusterAccess:
    """Who asks and where, as arguments and, where they say nothing, the environment have it.

    Args:
        pod_token: take the token of this pod's service account.

    Raises:
        UsageError: no host is named, or what is named cannot be used.
    """
    found = host or os.environ.get(HOST, "")
    if not found.strip():
        raise UsageError(f"no Kubeflow Pipelines named; give --host URL or set {HOST}")
    if pod_token and token_file:
        raise UsageError("a file with a token and the pod's token; give one of them")
    if pod_token:
        token_file = os.environ.get(POD_TOKEN) or POD_TOKEN_FILE
    return ClusterAccess(
        host=found,
        namespace=namespace or "",
        token=None if token_file else (os.environ.get(TOKEN) or None),
        token_file=token_file,
        cookie=os.environ.get(COOKIE) or None,
        ca=ca,
        ui=os.environ.get(UI_HOST, ""),
    )


def read_token(path: str) -> str:
    """The token in a file.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except OSError as error:
        raise UsageError(f"{path}: the token cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        token = ""
    if not _is_header(token):
        raise UsageError(f"{path}: holds no token of one line")
    return token


def _is_header(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


def _url(text: str) -> str:
    """An address as it is typed or copied from a browser, as the URL that paths are added to."""
    url = text.strip().partition("#")[0]
    url = url if "://" in url else f"https://{url}"
    if not re.fullmatch(r"https?://[^/@\s?]+(/[^\s?]*)?", url, re.I):
        shown = redact(url)
        raise UsageError(f"{shown}: is not the address of Kubeflow Pipelines; give https://HOST/…")
    return url.rstrip("/")
