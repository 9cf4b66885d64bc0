"""Client of the REST API of Kubeflow Pipelines.

It uses the generated library below `kfp.Client`. `kfp.Client` itself waits for ever for a server
that does not answer and for a run that was cancelled, prints, and stores a namespace in the home
folder.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
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
_UNKNOWN = "RUNTIME_STATE_UNSPECIFIED"
_MOST_NAMED = 5
# Begins the description of a schedule that replaces others, followed by their ids.
_REPLACES = "replaces "
LATEST = "latest"  # the newest run of an experiment
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID_PART = re.compile(r"[0-9a-f]{4}[0-9a-f-]*")


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
        ui: URL of the web interface, for links; none are made without it.

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
        object.__setattr__(self, "ui", _url(self.ui) if self.ui else "")
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
    ui: str | None = None,
) -> ClusterAccess:
    """Return address and credentials from the arguments and, for those not given, the environment.

    Args:
        host, namespace, token_file, ca, ui: see :class:`ClusterAccess`.
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
        ui=ui or os.environ.get(UI_HOST, ""),
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
    """A run on the cluster.

    Args:
        run_id: id of the run, which is its name in the data set too.
        name: display name.
        url: address in a browser; empty where the web interface's address is not known.
        state: as the API calls it.
        message: the API's own message about a failure. Kubeflow Pipelines 2.17 writes none:
            :func:`~c3d_pipelines.kubeflow.diagnosis.diagnose` finds the reason.
        arguments: the parameters, with the defaults where the API returns the pipeline.
        tasks: display name and state of each node of the run's workflow.
        schedule_id: of the schedule that started it; empty without one.
    """

    run_id: str
    name: str
    url: str
    state: str = "PENDING"
    message: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    tasks: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    schedule_id: str = field(default="", compare=False, repr=False)

    @property
    def address(self) -> str:
        """The URL in a browser, or else the run's id."""
        return self.url or self.run_id

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
    """A schedule by which the cluster starts runs.

    Args:
        schedule_id: its id.
        name: its display name, with which the names of its runs begin.
        cron: its times.
        enabled: False where it is paused.
        url: in a browser; empty where the web interface's address is not known.
        namespace: where its runs are, as the backend reports it.
        experiment_id: of the group of its runs.
        replaces: the ids of the schedules that it was created to replace.
    """

    schedule_id: str
    name: str
    cron: str
    enabled: bool
    url: str
    namespace: str = ""
    experiment_id: str = ""
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class UploadedVersion:
    """A version of a pipeline on the backend.

    Args:
        pipeline, version: their names.
        url: of the version in a browser; empty where the web interface's address is not known.
        is_new: False where the backend had it already.
    """

    pipeline: str
    version: str
    url: str
    is_new: bool


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
        self._pipelines = api.PipelineServiceApi(client)
        self._uploads = api.PipelineUploadServiceApi(client)
        self._multi_user: bool | None = None
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
        host = self.access.host
        multi_user, tag = self._health()
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

    @property
    def multi_user(self) -> bool:
        """Whether each user has a namespace; with a single user the backend ignores namespaces."""
        if self._multi_user is None:
            self._health()
        return bool(self._multi_user)

    def _health(self) -> tuple[bool, str]:
        """Return whether the backend has several users, and its version."""
        service, host = self._api.HealthzServiceApi(self._client), self.access.host
        answer = self._call(service.healthz_service_get_healthz, _preload_content=False)
        try:
            health = json.loads(answer.data)
            self._multi_user = bool(health["multi_user"])
            return self._multi_user, str(health.get("tag_name", ""))
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{host}: answers with {_page(answer.data)} instead of Kubeflow Pipelines' API; "
                "give the address that comes before /apis/v2beta1 (often https://HOST/pipeline), "
                "and a token if it requires a login"
            ) from None

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
                experiments = [self._call(create, experiment=body)]
            except Refused as error:
                if error.status != 409:
                    raise
                # Another client has just created it.
                experiments = self._listed(listed, "experiments", name=name)
        if len(experiments) != 1:
            raise RunError(f"{self.access.host}: has {len(experiments)} experiments named {name!r}")
        used, wanted = experiments[0].namespace, self.access.namespace
        # Empty where the backend has a single user and ignores namespaces.
        if used and wanted and used != wanted:
            raise RunError(f"{self.access.host}: would run in namespace {used}, not in {wanted}")
        return str(experiments[0].experiment_id)

    def create_run(self, **fields: Any) -> SentRun:
        """Start a run with the fields of V2beta1Run."""
        body = self._api.V2beta1Run(**fields)
        return self._sent(self._call(self._runs.run_service_create_run, run=body))

    def run(self, run_id: str) -> SentRun:
        """Return a run in its current state."""
        return self._sent(self._call(self._runs.run_service_get_run, run_id=run_id))

    def find_run(self, text: str, *, experiment: str) -> SentRun:
        """Return the run that a user means.

        Args:
            text: id, the beginning of an id, display name, or ``latest``.
            experiment: where the ``latest`` run is looked for.

        Raises:
            RunError: there is no such run, or there are several.
        """
        host = self.access.host
        if _RUN_ID.fullmatch(text):
            return self.run(text)
        listed = self._runs.run_service_list_runs
        newest: dict[str, Any] = {"sort_by": "created_at desc"}
        if text == LATEST:
            experiment_id = self.experiment(experiment, make=False)
            runs = (
                experiment_id
                and self._call(listed, experiment_id=experiment_id, page_size=1, **newest).runs
            )
            if not runs:
                raise RunError(f"{host}: has no run in the experiment {experiment!r}")
            return self.run(runs[0].run_id)
        found = self._listed(listed, "runs", name=text, **newest)
        if not found and _ID_PART.fullmatch(text):
            part = {"operation": "IS_SUBSTRING", "key": "run_id", "stringValue": text}
            found = self._listed(listed, "runs", predicate=part, **newest)
            found = [run for run in found if run.run_id.startswith(text)]
        if not found:
            raise RunError(
                f"{host}: has no run {text!r}; give an id, the beginning of an id, a name, or "
                f"{LATEST}"
            )
        if len(found) > 1:
            ids = ", ".join(run.run_id for run in found[:_MOST_NAMED])
            more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
            raise RunError(f"{host}: has {len(found)} runs {text!r}; give an id: {ids}{more}")
        return self.run(found[0].run_id)

    def terminate(self, run_id: str) -> None:
        """End a run that has not ended; its pods are stopped within seconds."""
        self._call(self._runs.run_service_terminate_run, run_id=run_id)

    def retry(self, run_id: str) -> None:
        """Start the failed steps of a failed run again, under the same id."""
        self._call(self._runs.run_service_retry_run, run_id=run_id)

    def workflow(self, run_id: str) -> dict[str, Any]:
        """Return the run's Argo workflow as last reported; only version 1 of the API returns it.

        Raises:
            RunError: the answer has none, as that of a run that has just been sent.
        """
        answer = self._get("/apis/v1beta1/runs/{run_id}", run_id=run_id)
        try:
            runtime = json.loads(answer)["pipeline_runtime"]
            workflow = json.loads(runtime["workflow_manifest"])
            if not isinstance(workflow["metadata"]["name"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{self.access.host}: returns no workflow of the run") from None
        return dict(workflow)

    def log(self, run_id: str, pod: str, *, node: str, namespace: str) -> str | None:
        """Return the log of a step's pod, or its archived log; None where the API has neither.

        Args:
            run_id: id of the run.
            pod: the pod's name.
            node: id of the pod's node in the workflow.
            namespace: of the pod; the web interface needs it where there are several users.
        """
        parts = {"run_id": run_id, "pod": pod, "node": node}
        # The API's own path is the first. The second is that of the web interface, which the user
        # may have given as the host and which does not pass on the first. The last is that of the
        # log as Argo archives it, which is Kubeflow's default.
        live: tuple[tuple[str, dict[str, str]], ...] = (
            ("/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}),
            ("/k8s/pod/logs", {"podname": pod, "runid": run_id, "podnamespace": namespace}),
        )
        for path, query in live:
            data = self._found(path, query=query, **parts)
            # The API begins its answer before it looks for the log: an error has status 200 too.
            start = (data or b"<html")[:200].lstrip().lower()
            if data and not start.startswith((b'{"error_message"', b"<!doctype", b"<html")):
                return data.decode("utf-8", "replace")
        path = "/apis/v2beta1/runs/{run_id}/nodes/{node}/artifacts/main-logs:read"
        try:
            archived = json.loads(self._found(path, **parts) or b"")["data"]
            return base64.b64decode(archived).decode("utf-8", "replace")
        except (ValueError, KeyError, TypeError):
            return None

    def has_schedule(self, schedule_id: str) -> bool:
        """Return whether a schedule still exists."""
        call = self._schedules.recurring_run_service_get_recurring_run
        try:
            self._call(call, recurring_run_id=schedule_id)
        except Refused as error:
            if error.status != 404:
                raise
            return False
        return True

    def active_runs(self, target: Schedule) -> list[SentRun]:
        """Return the runs of a schedule that have not ended, of its 50 newest.

        A schedule of this package has one at a time; an older one may have been retried by hand.
        """
        equal = {"operation": "EQUALS", "key": "recurring_run_id"}
        query = {"predicates": [equal | {"stringValue": target.schedule_id}]}
        page = self._call(
            self._runs.run_service_list_runs,
            experiment_id=target.experiment_id,
            filter=json.dumps(query),
            sort_by="created_at desc",
            page_size=50,
        )
        runs = [self._sent(run) for run in page.runs or []]
        return [run for run in runs if not run.ended]

    def create_schedule(
        self, *, cron: str, enabled: bool, replaces: Iterable[Schedule] = (), **fields: Any
    ) -> Schedule:
        """Create a schedule of runs with the fields of V2beta1RecurringRun.

        Args:
            cron: its times.
            enabled: False creates a paused one.
            replaces: the schedules that it replaces; kept in the description.
            fields: further fields.
        """
        api = self._api
        if ids := [schedule.schedule_id for schedule in replaces]:
            fields["description"] = f"{_REPLACES}{' '.join(ids)}"
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
        # Otherwise Kubernetes deletes the workflow of its last run too, pods included.
        more = {"propagation_policy": "ORPHAN"} if change == "delete" else {}
        self._call(call, recurring_run_id=schedule_id, **more)

    def pipeline(self, name: str) -> str | None:
        """Return the id of the uploaded pipeline of this name; None where there is none."""
        find = self._pipelines.pipeline_service_get_pipeline_by_name
        namespace = {"namespace": self.access.namespace} if self.access.namespace else {}
        try:
            return str(self._call(find, name=name, **namespace).pipeline_id)
        except Refused as error:
            if error.status != 404:
                raise
            return None

    def create_pipeline(self, name: str, description: str) -> str:
        """Create a pipeline without a version and return its id."""
        body = self._api.V2beta1Pipeline(
            name=name,
            display_name=name,
            description=description or None,
            namespace=self.access.namespace or None,
        )
        create = self._pipelines.pipeline_service_create_pipeline
        return str(self._call(create, pipeline=body).pipeline_id)

    def pipeline_versions(self, pipeline_id: str, name: str) -> list[str]:
        """Return the ids of a pipeline's versions of this display name."""
        listed = self._pipelines.pipeline_service_list_pipeline_versions
        found = self._listed(listed, "pipeline_versions", name=name, pipeline_id=pipeline_id)
        return [str(version.pipeline_version_id) for version in found]

    def upload_version(self, pipeline_id: str, name: str, path: str, description: str) -> str:
        """Upload a compiled pipeline as a version and return the version's id."""
        upload = self._uploads.upload_pipeline_version
        return str(
            self._call(
                upload,
                uploadfile=path,
                name=name,
                display_name=name,
                pipelineid=pipeline_id,
                description=description,
            ).pipeline_version_id
        )

    def link(self, page: str) -> str:
        """Return the URL of a page of the web interface; empty where its address is not known."""
        return f"{self.access.ui}/#/{page}" if self.access.ui else ""

    def _sent(self, run: Any) -> SentRun:
        if not run.run_id or not (run.state is None or isinstance(run.state, str)):
            raise Refused(f"{self.access.host}: answers without the run's id", 502)
        if run.state in (None, _UNKNOWN) and run.error and run.error.message:
            # The backend cannot read its own record of the run.
            message = " ".join(run.error.message.split())[:400]
            raise Refused(f"{self.access.host}: cannot return the run ({message})", 502)
        state = run.state or "PENDING"
        return SentRun(
            run_id=run.run_id,
            name=run.display_name or "",
            url=self.link(f"runs/details/{run.run_id}"),
            state="PENDING" if state == _UNKNOWN else state,
            message=_failure(run) if state in _ENDED and state != "SUCCEEDED" else "",
            arguments=_arguments(run),
            tasks=tuple((task.display_name or "", task.state or "") for task in _tasks(run)),
            schedule_id=run.recurring_run_id or "",
        )

    def _schedule(self, run: Any) -> Schedule:
        if not run.recurring_run_id:
            raise Refused(f"{self.access.host}: answers without the schedule's id", 502)
        times = run.trigger and run.trigger.cron_schedule
        _, marked, replaced = (run.description or "").partition(_REPLACES)
        return Schedule(
            schedule_id=run.recurring_run_id,
            name=run.display_name or "",
            cron=(times and times.cron) or "",
            enabled=run.mode == "ENABLE" if run.mode else run.status == "ENABLED",
            url=self.link(f"recurringrun/details/{run.recurring_run_id}"),
            namespace=run.namespace or "",
            experiment_id=run.experiment_id or "",
            replaces=tuple(replaced.split()) if marked else (),
        )

    def _listed(
        self,
        call: Callable[..., Any],
        field_name: str,
        *,
        name: str | None = None,
        predicate: dict[str, str] | None = None,
        **query: Any,
    ) -> list[Any]:
        """Return the items of all pages of a list."""
        if name is not None:
            predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        if predicate is not None:
            query["filter"] = json.dumps({"predicates": [predicate]})
        if self.access.namespace and not {"experiment_id", "pipeline_id"} & query.keys():
            query["namespace"] = self.access.namespace
        items: list[Any] = []
        token = ""
        while True:
            page = self._call(call, page_size=_PAGE, page_token=token, **query)
            items += getattr(page, field_name) or []
            token = page.next_page_token or ""
            if not token:
                return items

    def _get(self, path: str, *, query: Mapping[str, str] | None = None, **parts: str) -> bytes:
        """Return the body of a path that the generated library does not know."""
        answer = self._call(
            self._client.call_api,
            resource_path=path,
            method="GET",
            path_params={name: part for name, part in parts.items() if f"{{{name}}}" in path},
            query_params=list((query or {}).items()),
            header_params={},
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=False,
        )
        return bytes(answer.data)

    def _found(self, path: str, **arguments: Any) -> bytes | None:
        """Return the body of a path; None where the server does not have it."""
        try:
            return self._get(path, **arguments)
        except Refused as error:
            if error.status in (401, 403) or not error.status:
                raise
            return None

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


def _tasks(run: Any) -> list[Any]:
    return (run.run_details and run.run_details.task_details) or []


def _failure(run: Any) -> str:
    """Return the messages about a failure in the API's answer.

    Names of tasks without a message are left out: they are those of a workflow's nodes.
    """
    own = [run.error.message] if run.error and run.error.message else []
    messages = {
        f"{task.display_name}: {task.error.message}": None
        for task in _tasks(run)
        if task.error and task.error.message
    }
    return " ".join("; ".join([*own, *messages][:_MOST_NAMED]).split())


def _arguments(run: Any) -> dict[str, Any]:
    """Return a run's parameters, with the pipeline's defaults where the answer has the pipeline."""
    spec = run.pipeline_spec if isinstance(run.pipeline_spec, dict) else {}
    spec = spec.get("pipeline_spec", spec)
    given = run.runtime_config.parameters if run.runtime_config else None
    try:
        declared = spec["root"]["inputDefinitions"]["parameters"]
        defaults = {
            name: parameter["defaultValue"]
            for name, parameter in declared.items()
            if "defaultValue" in parameter
        }
    except (KeyError, TypeError, AttributeError):
        defaults = {}
    return {**defaults, **(given or {})}


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
