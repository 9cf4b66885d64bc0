"""Where a cluster's Kubeflow Pipelines are, and who asks there; read once, and never shown.

Tokens come from files or the environment: arguments are seen by all who list a machine's processes.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field

from c3d_client.errors import UsageError
from c3d_client.stores import display

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
        shown = display(url)
        raise UsageError(f"{shown}: is not the address of Kubeflow Pipelines; give https://HOST/…")
    return url.rstrip("/")
