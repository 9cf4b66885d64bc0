"""Pipelines and their versions on the fake Kubeflow Pipelines."""

from __future__ import annotations

import email
import email.policy
import uuid

import kfp_server_api as api
import yaml

from support.kfp_rules import Refusal, check_body, check_pipeline


class Uploads:
    """Named pipelines, each with versions; no two of one name.

    Attributes:
        pipelines, versions: by id.
    """

    def __init__(self) -> None:
        self.pipelines: dict[str, dict] = {}
        self.versions: dict[str, dict] = {}

    def create(self, body, namespace: str) -> dict:
        check_body(api.V2beta1Pipeline, body)
        if not body.get("name"):
            raise Refusal("pipeline's name cannot be empty")
        if any(self._is(found, body["name"], namespace) for found in self.pipelines.values()):
            raise Refusal("Already exist error: the pipeline", code=6, status=409)
        pipeline = {**body, "pipeline_id": str(uuid.uuid4()), "namespace": namespace}
        self.pipelines[pipeline["pipeline_id"]] = pipeline
        return pipeline

    def by_name(self, name: str, namespace: str) -> dict:
        for found in self.pipelines.values():
            if self._is(found, name, namespace):
                return found
        raise Refusal(f"Pipeline {name} not found", code=5, status=404)

    def versions_of(self, pipeline_id: str) -> dict[str, dict]:
        return {k: v for k, v in self.versions.items() if v["pipeline_id"] == pipeline_id}

    def upload(self, query: dict[str, str], kind: str, data: object) -> dict:
        """Create a version from a multipart body; errors are as bare as the real ones."""
        failed = "Failed to create a pipeline version"
        if not isinstance(data, bytes):
            raise Refusal(failed)
        message = email.message_from_bytes(
            f"Content-Type: {kind}\r\n\r\n".encode() + data, policy=email.policy.HTTP
        )
        files = [
            part
            for part in message.iter_parts()
            if part.get_param("name", header="content-disposition") == "uploadfile"
        ]
        if len(files) != 1 or not str(files[0].get_filename()).endswith((".yaml", ".yml")):
            raise Refusal(failed)
        pipeline_id, name = query.get("pipelineid"), query.get("name")
        if pipeline_id not in self.pipelines or not name or len(name) > 127:
            raise Refusal(failed)
        if any(found["name"] == name for found in self.versions_of(pipeline_id).values()):
            raise Refusal(failed, code=6, status=409)
        spec, *platform = yaml.safe_load_all(files[0].get_content())
        both = {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
        check_pipeline(both)
        version = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": query.get("display_name") or name,
            "description": query.get("description", ""),
            "pipeline_spec": both,
        }
        self.versions[version["pipeline_version_id"]] = version
        return version

    def _is(self, pipeline: dict, name: str, namespace: str) -> bool:
        return (pipeline["name"], pipeline["namespace"]) == (name, namespace)
