"""The exporter's image as Kubernetes runs it: versions, an export, SIGTERM, a local server."""

from __future__ import annotations

import time

import pytest
from images.containers import USER
from k8s.render import objects_of
from support.videos import write_video

pytestmark = pytest.mark.images

# As the kubelet asks: one call of gRPC health to the port and the service, within the timeout.
_PROBE = """
import sys
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
port, service, timeout = sys.argv[1:]
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    answer = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service), timeout=float(timeout)
    )
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)
"""


def server_container() -> dict:
    """Return the container of the Deployment that the overlay cpu-dev applies."""
    (deployment,) = [o for o in objects_of("overlays/cpu-dev") if o["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="session")
def probe(engine, export_image):
    """Ask the container of a pod as a gRPC probe of its Deployment describes it."""

    def ask(pod: str, grpc: dict, timeout: float) -> bool:
        done = engine.run(
            *(export_image, "-c", _PROBE),
            *(str(grpc["port"]), grpc.get("service", ""), str(timeout)),
            check=False,
            entrypoint="python",
            network=f"container:{pod}",
        )
        return done.returncode == 0

    return ask


def test_versions_are_printed_without_a_network_or_a_writable_root(engine, images):
    for image, name in zip(images, ("c3d-export", "c3d-pipelines"), strict=True):
        done = engine.run(image, "--version")
        assert name in done.stdout
        assert done.stderr == ""
    worker = images[1]
    assert engine.run(worker, "--version", entrypoint="c3d").stdout.startswith("c3d")


def test_working_directory_exists_for_the_user(engine, images):
    for image in images:
        done = engine.run(image, "-c", "pwd && ls -a && id -u", entrypoint="sh")
        assert done.stdout.split() == ["/work", ".", "..", "65532"], image


def test_exported_version_is_readable_for_another_user(engine, export_image, store):
    done = engine.run(
        *(
            export_image,
            "-c",
            "cat $(find /models -type f) | wc -c && find /models -type f | wc -l",
        ),
        entrypoint="sh",
        user="12345:12345",
        volumes={"/models": store},
    )
    assert done.stderr == ""
    size, files = (int(number) for number in done.stdout.split())
    assert size > 100_000
    assert files > 5


def test_build_as_first_process_ends_at_sigterm_and_leaves_nothing(engine, export_image, writable):
    folder = writable / "stopped"
    folder.mkdir()
    folder.chmod(0o777)
    # Wide enough to be building for tens of seconds.
    options = ("build", "--weights", "random:1", "--width", "48", "--out", "/models/c3d")
    with engine.started(export_image, *options, volumes={"/models": folder}) as name:
        end = time.monotonic() + 120
        while not list(folder.glob("c3d/.building-*")):
            assert engine.state(name, "Running") == "true", engine.logs(name)
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(1)
        started = time.monotonic()
        engine("stop", "--time", "60", name)
        assert time.monotonic() - started < 20
        assert engine.state(name, "ExitCode") == "143", engine.logs(name)
        assert "Traceback" not in engine.logs(name)
    assert list(folder.rglob("*")) == []


def test_probes_of_the_deployment_are_answered(pod, probe):
    container = server_container()
    probes = [container[name] for name in ("startupProbe", "livenessProbe")]
    assert [set(description) & {"grpc"} for description in probes] == [{"grpc"}] * 2
    for description in probes:
        assert probe(pod, description["grpc"], description["timeoutSeconds"])
    # The readiness probe asks the REST port, which the local server does not have; tests/cluster
    # asks it of a pod.
    assert "httpGet" in container["readinessProbe"]
    assert not probe(pod, {"port": 8500, "service": "unknown"}, 5)
    assert not probe(pod, {"port": 8501}, 5)


def test_client_of_the_pod_classifies_a_video(engine, worker_image, pod, writable):
    video = writable / "video.mp4"
    write_video(video, 24)
    for arguments in (("status",), ("classify", "/video.mp4")):
        done = engine.run(
            *(worker_image, *arguments, "--server", "localhost:8500"),
            entrypoint="c3d",
            network=f"container:{pod}",
            volumes={"/video.mp4": video},
        )
        assert done.stdout.strip(), arguments


def test_server_as_first_process_ends_at_sigterm(engine, export_image, store):
    with engine.started(
        *(export_image, "serve", "/models/c3d", "--host", "0.0.0.0"), volumes={"/models": store}
    ) as name:
        while "8500" not in engine.logs(name):
            assert engine.state(name, "Running") == "true", engine.logs(name)
            time.sleep(0.2)
        started = time.monotonic()
        engine("stop", "--time", "60", name)
        assert time.monotonic() - started < 20
        assert engine.state(name, "ExitCode") in ("0", "143"), engine.logs(name)


def test_numbers_of_the_user_are_the_manifests():
    container = server_container()
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    (deployment,) = [o for o in objects_of("overlays/cpu-dev") if o["kind"] == "Deployment"]
    pod_context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert f"{pod_context['runAsUser']}:{pod_context['runAsGroup']}" == USER
