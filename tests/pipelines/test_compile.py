"""Compiled pipelines: up to date, the same bytes each time, and with the cluster's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from c3d_client.core.errors import OutputError, UsageError
from c3d_pipelines.commands.cluster import compile_command
from c3d_pipelines.kubeflow.cluster import ClusterSettings
from c3d_pipelines.kubeflow.compile import PIPELINES, compile_pipeline, compiled_path, compiled_text
from c3d_pipelines.parameters import CLUSTER_SERVER
from click.testing import CliRunner
from support import spec_checks

DIGEST = f"registry.example.org/c3d-pipelines@sha256:{'ab' * 32}"
K8S = Path(__file__).parents[2] / "k8s" / "pipelines"


def parsed(text: str) -> list[dict]:
    """Return the documents without the part that differs between versions of kfp."""
    documents = list(yaml.safe_load_all(text))
    del documents[0]["sdkVersion"]
    return documents


def command(*arguments: str):
    return CliRunner().invoke(compile_command, arguments)


@pytest.mark.parametrize("name", PIPELINES)
class TestCompiled:
    def test_file_of_the_package_is_up_to_date(self, name):
        fresh, stored = compiled_text(name), compiled_path(name).read_text()
        assert parsed(fresh) == parsed(stored), (
            "compile the files again: c3d-pipelines compile --out "
            "pipelines/c3d_pipelines/kubeflow/compiled"
        )

    def test_the_same_settings_give_the_same_bytes(self, name, tmp_path):
        for stem in ("a", "b"):
            compile_pipeline(name, tmp_path / f"{stem}.yaml", ClusterSettings(image=DIGEST))
        assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()

    def test_file_holds_no_path_of_a_machine(self, name):
        text = compiled_path(name).read_text()
        assert str(Path.home()) not in text
        assert str(Path(__file__).parents[2]) not in text

    def test_pipeline_with_all_settings_has_no_problem(self, name, tmp_path):
        everything = ClusterSettings(
            image=DIGEST,
            export_image=DIGEST,
            image_pull_policy="Always",
            image_pull_secrets=("registry",),
            accelerator="nvidia.com/gpu",
            node_selector={"pool": "cpu"},
            tolerations=({"key": "batch", "operator": "Exists", "effect": "NoSchedule"},),
            secret_env={"s3": {"id": "AWS_ACCESS_KEY_ID", "key": "AWS_SECRET_ACCESS_KEY"}},
            secret_volumes={"c3d-tls": "/etc/c3d/tls"},
            env={"C3D_CA": "/etc/c3d/tls/ca.crt", "C3D_TOKEN_FILE": "/etc/c3d/token"},
            queue="bulk",
            scratch_class="fast",
            active_deadline_seconds=86400,
            parallelism=100,
        )
        path = tmp_path / "all.yaml"
        compile_pipeline(name, path, everything)
        spec, platform = spec_checks.read(path)
        assert spec_checks.all_problems(spec, platform) == []
        for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            assert executor["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "bulk"
            assert executor["genericEphemeralVolume"][0]["storageClassName"] == "fast"
            assert executor["secretAsEnv"][0]["optional"] is True
            assert executor["nodeSelector"]["nodeSelectorJson"]["runtimeValue"]["constant"] == {
                "pool": "cpu"
            }


class TestDefaults:
    def test_match_the_namespace_of_k8s(self):
        config = yaml.safe_load((K8S / "config.yaml").read_text())
        claim = yaml.safe_load((K8S / "pvc.yaml").read_text())["metadata"]["name"]
        settings = ClusterSettings()
        assert settings.config_map_env == {config["metadata"]["name"]: {"target": "C3D_SERVER"}}
        assert list(settings.pvc_mounts) == [claim]
        assert config["data"]["target"] == CLUSTER_SERVER

    def test_request_no_accelerator(self):
        assert "accelerator" not in "".join(compiled_path(name).read_text() for name in PIPELINES)

    def test_accelerator_is_for_the_steps_that_build(self, tmp_path):
        path = tmp_path / "gpu.yaml"
        compile_pipeline(
            "c3d-export-and-verify", path, ClusterSettings(accelerator="nvidia.com/gpu")
        )
        executors = spec_checks.read(path)[0]["deploymentSpec"]["executors"]
        with_gpu = {n for n, e in executors.items() if "accelerator" in e["container"]["resources"]}
        assert with_gpu == {"exec-build", "exec-verify"}


class TestCommand:
    def test_writes_all_pipelines_to_a_folder_or_one_to_a_file(self, tmp_path):
        done = command("--out", str(tmp_path / "all"))
        assert done.exit_code == 0, done.output
        assert sorted(p.stem for p in (tmp_path / "all").iterdir()) == sorted(PIPELINES)
        one = tmp_path / "one.yaml"
        done = command(PIPELINES[0], "--out", str(one), "--image", DIGEST)
        assert done.output == f"{one}: {PIPELINES[0]}, image {DIGEST}\n"
        images = {
            executor["container"]["image"]
            for executor in spec_checks.read(one)[0]["deploymentSpec"]["executors"].values()
        }
        assert images == {DIGEST}

    def test_options_override_the_settings_of_a_file(self, tmp_path):
        settings = tmp_path / "cluster.yaml"
        settings.write_text("parallelism: 7\nqueue: bulk\n")
        one = tmp_path / "one.yaml"
        done = command(
            *(PIPELINES[0], "--out", str(one), "--settings", str(settings), "--queue", "night"),
            *("--node-selector", "pool=cpu", "--toleration", "batch=yes:NoSchedule"),
            *("--secret-env", "s3.id=AWS_ACCESS_KEY_ID", "--secret-env", "s3.key=AWS_SECRET"),
            *("--pvc", "videos=/videos", "--env", "C3D_TLS=1", "--secret-volume", "tls=/tls"),
        )
        assert done.exit_code == 0, done.output
        spec, platform = spec_checks.read(one)
        loop = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["for-loop-2"]
        assert loop["iteratorPolicy"] == {"parallelismLimit": 7}
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        pod = executors["exec-extract"]
        assert pod["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
        assert pod["tolerations"] == [
            {"key": "batch", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}
        ]
        assert [(mount["constant"], mount["mountPath"]) for mount in pod["pvcMount"]] == [
            ("videos", "/videos")
        ]
        assert len(pod["secretAsEnv"][0]["keyToEnv"]) == 2
        assert pod["secretAsVolume"][0]["mountPath"] == "/tls"
        env = spec["deploymentSpec"]["executors"]["exec-extract"]["container"]["env"]
        assert env == [{"name": "C3D_TLS", "value": "1"}]

    def test_unusable_arguments_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for arguments in (
            ("c3d-bulk",),
            ("--out", "one.yaml"),
            (PIPELINES[0], "--pvc", "videos"),
            (PIPELINES[0], "--secret-env", "s3=AWS_SECRET"),
            (PIPELINES[0], "--parallelism", "0"),
            (PIPELINES[0], "--env", "AWS_SECRET_ACCESS_KEY=x"),
        ):
            done = command(*arguments)
            assert isinstance(done.exception, UsageError), arguments
            assert not list(tmp_path.iterdir()), arguments

    def test_file_that_cannot_be_written_is_an_error(self, tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            compile_pipeline(PIPELINES[0], tmp_path / "none" / "one.yaml")
