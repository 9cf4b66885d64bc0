"""Compiled pipelines: up to date, the same bytes each time, and with the cluster's settings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from c3d_client.core.errors import OutputError, UsageError
from c3d_pipelines.commands.cluster import compile_command
from c3d_pipelines.estimate.rates import Cluster
from c3d_pipelines.kubeflow.cluster import ClusterSettings, amount
from c3d_pipelines.kubeflow.compile import PIPELINES, compile_pipeline, compiled_path, compiled_text
from c3d_pipelines.parameters import CLUSTER_SERVER
from click.testing import CliRunner
from support import spec_checks

DIGEST = f"registry.example.org/c3d-pipelines@sha256:{'ab' * 32}"
K8S = Path(__file__).parents[2] / "k8s" / "pipelines"
DATA = Path(__file__).parents[2] / "k8s" / "setup" / "pipelines-data"


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

    @pytest.mark.long
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
            active_deadline_seconds=86400,
            parallelism=100,
        )
        path = tmp_path / "all.yaml"
        compile_pipeline(name, path, everything)
        spec, platform = spec_checks.read(path)
        assert spec_checks.all_problems(spec, platform) == []
        for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            assert executor["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "bulk"
            (scratch,) = executor["emptyDirMounts"]
            assert (scratch["mountPath"], scratch["sizeLimit"]) == ("/tmp", "20Gi")
            assert executor["secretAsEnv"][0]["optional"] is True
            assert executor["nodeSelector"]["nodeSelectorJson"]["runtimeValue"]["constant"] == {
                "pool": "cpu"
            }


def tasks_with_retries(spec: dict) -> list[dict]:
    """Return the tasks of all graphs of a pipeline that Kubeflow retries."""
    graphs = [spec["root"], *spec["components"].values()]
    tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()]
    return [task for task in tasks if "retryPolicy" in task]


class TestRetries:
    @pytest.mark.long
    def test_all_attempts_of_a_task_fit_into_the_time_of_its_retries(self, tmp_path):
        path = tmp_path / "pipeline.yaml"
        for name in PIPELINES:
            for timeout_s, retries, pause in ((60, 1, "0s"), (7 * 86_400, 5, "600s")):
                compile_pipeline(
                    name,
                    path,
                    ClusterSettings(timeout_s=timeout_s, retries=retries, retry_backoff=pause),
                )
                spec, platform = spec_checks.read(path)
                assert tasks_with_retries(spec), name
                assert spec_checks.all_problems(spec, platform) == [], name

    def test_time_of_retries_is_given_without_a_timeout_too(self, tmp_path):
        path = tmp_path / "pipeline.yaml"
        compile_pipeline(PIPELINES[0], path, ClusterSettings(timeout_s=0))
        policies = [task["retryPolicy"] for task in tasks_with_retries(spec_checks.read(path)[0])]
        assert {policy["backoffMaxDuration"] for policy in policies} == {"2592000s"}

    @pytest.mark.long
    def test_there_are_none_where_none_are_set(self, tmp_path):
        for name in PIPELINES:
            path = tmp_path / "pipeline.yaml"
            compile_pipeline(name, path, ClusterSettings(retries=0))
            assert not tasks_with_retries(spec_checks.read(path)[0]), name


def started_pods(spec: dict, graph: dict) -> tuple[int, int]:
    """Return how many pods a graph starts besides those of its loops, and for each iteration."""
    once, each = 1, 0  # the graph's driver
    for task in graph["tasks"].values():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" not in component:
            once += 2  # driver and task
        elif "parameterIterator" in task:
            once += 1
            each += started_pods(spec, component["dag"])[0]
        else:
            inner = started_pods(spec, component["dag"])
            once, each = once + inner[0], each + inner[1]
    return once, each


def test_estimate_knows_the_pods_of_a_run():
    for name in PIPELINES[:2]:
        spec = spec_checks.read(compiled_path(name))[0]
        cluster = Cluster()
        counted = started_pods(spec, spec["root"]["dag"])
        assert counted == (cluster.pods_per_run, cluster.pods_per_shard), name


class TestRequests:
    def requests(self, name: str, path: Path, **settings) -> dict[str, tuple]:
        compile_pipeline(name, path, ClusterSettings(**settings))
        executors = spec_checks.read(path)[0]["deploymentSpec"]["executors"]
        keys = ("CpuRequest", "CpuLimit", "MemoryRequest", "MemoryLimit")
        return {
            label.removeprefix("exec-"): tuple(
                executor["container"]["resources"][f"resource{key}"] for key in keys
            )
            for label, executor in executors.items()
        }

    @pytest.mark.long
    def test_steps_fit_a_node_of_two_cores_beside_the_pods_of_its_system(self, tmp_path):
        # System pods of a node request about 0.3 cores and 0.5 GiB, and Kubernetes keeps 0.1 cores
        # and 1.8 of 8 GiB for itself.
        for name in PIPELINES[:2]:
            for step, (cpu, _, memory, _) in self.requests(name, tmp_path / "p.yaml").items():
                assert amount(cpu) <= Decimal("1.5"), step
                assert amount(memory) <= amount("5Gi"), step

    def test_steps_without_videos_request_half_a_core_and_have_the_workers_limits(self, tmp_path):
        steps = self.requests(PIPELINES[0], tmp_path / "p.yaml")
        assert steps.pop("extract") == ("1", "4", "2Gi", "4Gi")
        assert set(steps.values()) == {("500m", "4", "2Gi", "4Gi")}
        assert {"plan", "publish", "report"} <= set(steps)

    def test_steps_that_build_a_model_request_its_memory(self, tmp_path):
        steps = self.requests(PIPELINES[2], tmp_path / "p.yaml")
        assert steps["build"] == steps["verify"] == ("1", "4", "6Gi", "8Gi")

    def test_request_of_a_small_step_is_at_most_its_limit(self, tmp_path):
        small = {"cpu_request": "200m", "cpu_limit": "250m"}
        for step, (cpu, limit, *_) in self.requests(
            PIPELINES[0], tmp_path / "p.yaml", **small
        ).items():
            assert amount(cpu) <= amount(limit), step


class TestDefaults:
    def test_match_the_namespace_of_k8s(self):
        config = yaml.safe_load((K8S / "config.yaml").read_text())
        claim = yaml.safe_load((DATA / "claim.yaml").read_text())["metadata"]["name"]
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
    @pytest.mark.long
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

    def test_folder_that_cannot_be_made_is_an_error_of_one_line(self, tmp_path):
        (tmp_path / "file").touch()
        for out in (tmp_path / "file", tmp_path / "file" / "folder"):
            done = command(PIPELINES[0], "--out", str(out))
            assert isinstance(done.exception, OutputError), done.exception
            assert str(done.exception).startswith(f"{out}: no folder can be made there (")

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
        loop = spec["components"]["comp-condition-2"]["dag"]["tasks"]["for-loop-3"]
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
