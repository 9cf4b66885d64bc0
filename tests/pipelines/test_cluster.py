"""Cluster settings are checked when they are made, and a file's keys must be known."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.kubeflow.cluster import ClusterSettings

UNUSABLE = {
    "an image with a space": {"image": "c3d pipelines"},
    "half a digest": {"image": "c3d-pipelines@sha256:abc"},
    "an unknown policy": {"image_pull_policy": "Sometimes"},
    "cores that are not a number": {"cpu_request": "two"},
    "bytes with a space": {"memory_limit": "4 GB"},
    "no shard at a time": {"parallelism": 0},
    "parallelism as text": {"parallelism": "20"},
    "a flag for a number": {"retries": True},
    "root": {"run_as_user": 0},
    "a time without a unit": {"retry_backoff": "60"},
    "a time beyond a duration of Kubeflow": {"retry_backoff": "9999999999s"},
    "seconds beyond an int32": {"timeout_s": 2**31},
    "a request above its limit": {"cpu_request": "4500m"},
    "a request above its limit in other units": {"memory_request": "5000Mi"},
    "a claim without a path": {"pvc_mounts": {"videos": None}},
    "a Secret without keys": {"secret_env": {"s3": "AWS_SECRET_ACCESS_KEY"}},
    "a secret as a plain variable": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}},
    "a token as a plain variable": {"env": {"C3D_TOKEN": "x"}},
    "a variable that is a number": {"env": {"C3D_TLS": 1}},
    "a toleration that is text": {"tolerations": ("x",)},
    "tolerations that are not a list": {"tolerations": "x"},
    "a pull secret that is not text": {"image_pull_secrets": (1,)},
}


def test_defaults_are_usable():
    ClusterSettings()


def test_unusable_setting_is_refused_by_its_name():
    for case, settings in UNUSABLE.items():
        (name,) = settings
        with pytest.raises(UsageError) as caught:
            ClusterSettings(**settings)
        assert re.match(f"cluster settings: .*{name}", str(caught.value)), case


def test_all_unusable_settings_are_named_at_once():
    with pytest.raises(UsageError) as caught:
        ClusterSettings(parallelism=0, cpu_limit="x", run_as_user=0)
    assert all(name in str(caught.value) for name in ("parallelism", "cpu_limit", "run_as_user"))


def test_time_for_retries_is_longer_than_all_attempts_and_their_pauses():
    """Up to 68 years, as Kubernetes cannot write more."""
    for timeout_s, retries, pause_s in itertools.product(
        (1, 59, 3600, 43_200, 86_399, 2**31 - 1), (1, 2, 3, 10, 100, 2**31 - 1), (0, 1, 60, 3600)
    ):
        case = {"timeout_s": timeout_s, "retries": retries, "retry_backoff": f"{pause_s}s"}
        attempts_s = (retries + 1) * timeout_s
        # After more doublings the sum is far beyond 68 years.
        pauses_s = sum(pause_s * 2**retry for retry in range(min(retries, 40)))
        total_s = ClusterSettings(**case).retry_s
        assert total_s > min(attempts_s + pauses_s, 2**31 - 2), case
        assert total_s < 2**31, case


def test_time_for_retries_leaves_a_day_to_wait_for_nodes():
    # Four attempts of 12 hours and pauses of 1, 2 and 4 minutes are 2 days and 7 minutes.
    assert ClusterSettings().retry_s == 4 * 86_400


def test_time_for_retries_without_a_timeout_is_thirty_days():
    assert ClusterSettings(timeout_s=0).retry_s == 30 * 86_400
    assert ClusterSettings(timeout_s=0, retry_backoff="999999s").retry_s > 7 * 999_999


def test_image_may_be_a_tag_or_a_digest():
    for image in (
        "c3d-pipelines:dev",
        "localhost:5000/c3d/pipelines:1.2",
        "registry.example.org/team/c3d_pipelines@sha256:" + "0f" * 32,
        "registry.example.org/team/c3d:1@sha256:" + "0f" * 32,
    ):
        assert ClusterSettings(image=image).image == image


def test_variable_with_the_path_of_a_secret_is_accepted():
    env = {"C3D_TOKEN_FILE": "/etc/c3d/token", "C3D_KEY": "/etc/c3d/tls.key"}
    assert ClusterSettings(env=env).env == env


class TestFile:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "cluster.yaml"
        path.write_text(text)
        return path

    def test_settings_that_the_file_lacks_have_their_defaults(self, tmp_path):
        path = self.write(tmp_path, "image: other:1\ntolerations:\n- {key: a, operator: Exists}\n")
        settings = ClusterSettings.read(path, parallelism=3)
        assert settings == ClusterSettings(
            image="other:1", tolerations=({"key": "a", "operator": "Exists"},), parallelism=3
        )

    def test_file_may_be_empty(self, tmp_path):
        assert ClusterSettings.read(self.write(tmp_path, "# nothing yet\n")) == ClusterSettings()

    def test_settings_of_an_earlier_release_without_effect_are_accepted_with_a_warning(
        self, tmp_path, caplog
    ):
        path = self.write(
            tmp_path,
            "scratch_class: fast\nttl_seconds_after_finished: 604800\n"
            "retry_backoff_max: 1800s\nqueue: bulk\n",
        )
        with caplog.at_level(logging.WARNING):
            assert ClusterSettings.read(path) == ClusterSettings(queue="bulk")
        for name in ("scratch_class", "ttl_seconds_after_finished", "retry_backoff_max"):
            (line,) = [line for line in caplog.messages if name in line.split(" ")]
            assert line.startswith(f"{path}: {name} has no effect since 0.2.0: ")

    def test_unusable_file_is_refused_in_one_line(self, tmp_path):
        for text, message in (
            ("imag: x\n", "no such setting: imag; there are image, "),
            ("- image\n", "holds no settings"),
            ("image: [\n", "cannot be read"),
            ("parallelism: many\n", "parallelism is 'many'; give a whole number"),
            ("image: null\n", "image is None; give text"),
        ):
            path = self.write(tmp_path, text)
            with pytest.raises(UsageError, match=re.escape(message)) as caught:
                ClusterSettings.read(path)
            assert str(caught.value).startswith(f"{path}: "), text
            assert "\n" not in str(caught.value), text

    def test_missing_file_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="none.yaml: cannot be read"):
            ClusterSettings.read(tmp_path / "none.yaml")
