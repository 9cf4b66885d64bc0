"""A compiled pipeline before it is sent: what it may be given, and what the pods will see of it.

The backend checks names and types too, after it was asked, and one at a time.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from c3d_client.errors import RunError
from c3d_client.stores import display, scheme

MAX_PARAMETER_BYTES = 10_000  # the backend's own limit
PLACES = ("videos", "out", "store")  # parameters that name a folder or bucket
_KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
_IN_WORDS = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list in JSON",
    "STRUCT": "an object in JSON",
}


@dataclass(frozen=True)
class Parameter:
    """What a pipeline may be given: a kind, and a default or None."""

    name: str
    kind: str
    default: Any = None
    optional: bool = False


class Package:
    """A compiled pipeline.

    Args:
        path: a YAML file as kfp's compiler writes it.

    Raises:
        RunError: it cannot be read, or is no compiled pipeline.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import yaml
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2 as messages

        self.path = os.fspath(path)
        try:
            with open(self.path, encoding="utf-8") as file:
                documents = [one for one in yaml.safe_load_all(file) if one is not None]
            spec, *platforms = documents or [None]
            if not isinstance(spec, dict) or "pipelineInfo" not in spec or len(platforms) > 1:
                raise ValueError("no pipeline in it")
            platform = platforms[0] if platforms else {}
            # As kfp's client does: what is sent is what the messages hold.
            self._spec: dict[str, Any] = json_format.MessageToDict(
                json_format.ParseDict(spec, messages.PipelineSpec())
            )
            self._platform: dict[str, Any] = json_format.MessageToDict(
                json_format.ParseDict(platform, messages.PlatformSpec())
            )
            self.name = str(self._spec["pipelineInfo"]["name"])
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, json_format.ParseError, ValueError, KeyError) as error:
            said = " ".join(str(error).split())
            raise RunError(
                f"{self.path}: is not a pipeline that c3d-pipelines compile wrote ({said})"
            ) from error

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What it may be given."""
        found = self._spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        return {
            name: Parameter(
                name,
                str(said.get("parameterType", "")),
                said.get("defaultValue"),
                bool(said.get("isOptional", False)),
            )
            for name, said in found.items()
        }

    @property
    def mounts(self) -> list[str]:
        """The folders of volumes that all pods which mount any see."""
        platform = self._platform.get("platforms", {}).get("kubernetes", {})
        executors = platform.get("deploymentSpec", {}).get("executors", {})
        found = {
            mount["mountPath"] for said in executors.values() for mount in said.get("pvcMount", ())
        }
        return sorted(found)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a run is given, checked: text is read as what the pipeline wants.

        Raises:
            RunError: a name is unknown or missing, a value is of another kind or names a folder
                that the pods do not see, or all of it is too long; all are named at once.
        """
        known = self.parameters
        wrong = [_unknown(name, known) for name in given if name not in known]
        wrong += [
            f"{name} is missing"
            for name, one in known.items()
            if name not in given and one.default is None and not one.optional
        ]
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name in known:
                try:
                    values[name] = _value(value, known[name].kind)
                except ValueError as error:
                    wrong.append(f"{name} is {_seen(value)}, not {error}")
        settled = {name: one.default for name, one in known.items()} | values
        for name in PLACES:
            wrong += self._unseen(name, settled.get(name))
            if isinstance(values.get(name), str) and display(values[name]) != values[name]:
                wrong.append(f"{name} holds credentials, which all who see the run may read")
        size = _bytes(values)
        if size > MAX_PARAMETER_BYTES:
            longest = max(values, key=lambda name: _bytes(values[name]))
            wrong.append(
                f"they take {size} bytes, and Kubeflow takes {MAX_PARAMETER_BYTES}; {longest} is "
                "the longest: put it into a file and name that"
            )
        if wrong:
            raise RunError(f"{self.name}: the parameters cannot be sent: {'; '.join(wrong)}")
        return values

    def to_body(self, *, cached: bool = True) -> dict[str, Any]:
        """The pipeline as the API takes it.

        Args:
            cached: leave it to each task whether it takes earlier results; else none does. (kfp's
                own ``enable_caching`` says it to the outermost tasks alone.)
        """
        spec = json.loads(json.dumps(self._spec))
        if not cached:
            for part in (spec["root"], *spec.get("components", {}).values()):
                for task in part.get("dag", {}).get("tasks", {}).values():
                    task["cachingOptions"] = {}
        return {"pipeline_spec": spec, "platform_spec": self._platform} if self._platform else spec

    def _unseen(self, name: str, place: Any) -> list[str]:
        if not isinstance(place, str) or scheme(place) not in ("", "file"):
            return []
        path = place.removeprefix("file://")
        if not path.strip():
            return [f"{name} is empty"]
        normal = posixpath.normpath(path)
        mounts = [posixpath.normpath(mount) for mount in self.mounts]
        if any(normal == mount or normal.startswith(f"{mount}/") for mount in mounts):
            return []
        below = " or ".join(mounts) or "none is mounted"
        return [
            f"{name} is {place!r}, a path that the pods do not see; give s3://, gs://, or a path "
            f"on a mounted volume ({below})"
        ]


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    return f"there is no parameter {name!r}{hint}"


def _value(given: Any, kind: str) -> Any:
    """A value of a parameter's kind; ValueError says which one that is."""
    wanted = _IN_WORDS.get(kind)
    if wanted is None:
        raise ValueError(f"of the kind {kind}, which no one can give")
    value = given
    if isinstance(given, str) and kind != "STRING":
        try:
            value = json.loads(given.strip().lower() if kind == "BOOLEAN" else given)
        except ValueError:
            raise ValueError(wanted) from None
    is_flag = isinstance(value, bool)
    if is_flag != (kind == "BOOLEAN") or not isinstance(value, _KINDS[kind]):
        raise ValueError(wanted)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(wanted)
    if isinstance(value, str) and not value.strip():
        raise ValueError("something")
    return value


def _seen(value: Any) -> str:
    return repr(display(value) if isinstance(value, str) else value)[:80]


def _bytes(values: Any) -> int:
    """What values take as the backend counts them: compact JSON as Go writes it."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return len(text.encode("utf-8", "surrogatepass")) + 5 * sum(map(text.count, "<>&"))


def shown(arguments: Mapping[str, Any]) -> str:
    """Arguments in one line, without what may be secret in addresses."""
    return ", ".join(
        f"{name}={display(value) if isinstance(value, str) else json.dumps(value)}"
        for name, value in arguments.items()
    )
