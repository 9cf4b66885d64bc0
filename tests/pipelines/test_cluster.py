"""Cluster settings are checked when they are made, and a file's keys are known ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.kubeflow.cluster import ClusterSettings

WRONG = {
    "an image with a space": {"image": "c3d pipelines"},
    "half a digest": {"image": "c3d-pipelines@sha256:abc"},
    "a policy that there is not": {"image_pull_policy": "Sometimes"},
    "cores that are none": {"cpu_request": "two"},
    "bytes that are none": {"memory_limit": "4 GB"},
    "no shard at a time": {"parallelism": 0},
    "parallelism that is no number": {"parallelism": "20"},
    "a yes for a number": {"retries": True},
    "root": {"run_as_user": 0},
    "a time without a unit": {"retry_backoff": "60"},
    "a claim at no path": {"pvc_mounts": {"films": "films"}},
    "a claim over everything": {"pvc_mounts": {"films": "/"}},
    "a claim without a path": {"pvc_mounts": {"films": None}},
    "a Secret's key without a variable": {"secret_env": {"s3": {"id": ""}}},
    "a Secret without keys": {"secret_env": {"s3": "AWS_SECRET_ACCESS_KEY"}},
    "a secret in the open": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}},
    "a token in the open": {"env": {"C3D_TOKEN": "x"}},
    "a variable that is a number": {"env": {"C3D_TLS": 1}},
    "a toleration of something else": {"tolerations": ({"taint": "x"},)},
    "tolerations that are no list": {"tolerations": "x"},
    "a label with a space": {"pod_labels": {"a": "b c"}},
    "a queue with a slash": {"queue": "a/b"},
    "a pull secret that is no name": {"image_pull_secrets": ("Registry!",)},
}


def test_the_defaults_are_sound():
    ClusterSettings()


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_right_is_refused_by_its_name(name):
    (key,) = WRONG[name]
    with pytest.raises(UsageError, match=f"cluster settings: .*{key}"):
        ClusterSettings(**WRONG[name])


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(UsageError) as caught:
        ClusterSettings(parallelism=0, cpu_limit="x", run_as_user=0)
    assert all(name in str(caught.value) for name in ("parallelism", "cpu_limit", "run_as_user"))


@pytest.mark.parametrize(
    "image",
    [
        "c3d-pipelines:dev",
        "localhost:5000/c3d/pipelines:1.2",
        "registry.example.org/team/c3d_pipelines@sha256:" + "0f" * 32,
        "registry.example.org/team/c3d:1@sha256:" + "0f" * 32,
    ],
)
def test_an_image_may_be_a_tag_or_a_digest(image):
    assert ClusterSettings(image=image).image == image


def test_a_path_of_a_secret_is_no_secret():
    env = {"C3D_TOKEN_FILE": "/etc/c3d/token", "C3D_KEY": "/etc/c3d/tls.key"}
    assert ClusterSettings(env=env).env == env


class TestAFile:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "cluster.yaml"
        path.write_text(text)
        return path

    def test_names_some_and_the_rest_have_their_defaults(self, tmp_path):
        path = self.write(tmp_path, "image: other:1\ntolerations:\n- {key: a, operator: Exists}\n")
        settings = ClusterSettings.read(path, parallelism=3)
        assert settings == ClusterSettings(
            image="other:1", tolerations=({"key": "a", "operator": "Exists"},), parallelism=3
        )

    def test_may_be_empty(self, tmp_path):
        assert ClusterSettings.read(self.write(tmp_path, "# nothing yet\n")) == ClusterSettings()

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("imag: x\n", "no such setting: imag; there are image, "),
            ("- image\n", "holds no settings"),
            ("image: [\n", "cannot be read"),
            ("parallelism: many\n", "parallelism is 'many'; give a whole number"),
            ("image: null\n", "image is None; give text"),
        ],
    )
    def test_that_cannot_be_used_is_refused_in_one_line(self, tmp_path, text, told):
        path = self.write(tmp_path, text)
        with pytest.raises(UsageError, match=re.escape(told)) as caught:
            ClusterSettings.read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    def test_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="none.yaml: cannot be read"):
            ClusterSettings.read(tmp_path / "none.yaml")
