"""Containers of the project's images, restricted as Kubernetes restricts them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

USER = "65532:65532"
# Pod Security "restricted" and a read-only root, as all manifests have it.
_RESTRICTED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def find_engine() -> str | None:
    """Return the container engine that answers: ENGINE's, docker or podman."""
    given = os.environ.get("ENGINE")
    for command in [given] if given else ["docker", "podman"]:
        if shutil.which(command):
            done = subprocess.run([command, "info"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    return None


class Engine:
    """A container engine's command line."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __call__(
        self, *arguments: str, check: bool = True, cwd: Path | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        """Run the engine.

        Args:
            arguments: the command's arguments.
            check: whether another exit code than 0 is an error.
            cwd: the working directory.
            timeout: in seconds.

        Raises:
            AssertionError: with `check`, the engine failed.
        """
        done = subprocess.run(
            [self.command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check:
            output = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {output}"
        return done

    def restrictions(self, network: str = "none") -> list[str]:
        """Return the options of `run` that restrict a container.

        Args:
            network: `none`, or `container:NAME` to be in the same pod as a container.
        """
        # Kubernetes knows no HEALTHCHECK, and podman looks for systemd even at HEALTHCHECK NONE.
        options = [*_RESTRICTED, "--no-healthcheck", "--network", network]
        if Path(self.command).name == "podman":
            # Otherwise podman makes /var/tmp and /run writable too, which Kubernetes does not.
            options.append("--read-only-tmpfs=false")
        return options

    def options(
        self,
        *,
        network: str = "none",
        volumes: Mapping[str, Path] | None = None,
        entrypoint: str | None = None,
        user: str = USER,
    ) -> list[str]:
        """Return the options of `run` for a restricted container with a writable /tmp.

        Args:
            network: as for :meth:`restrictions`.
            volumes: the folders to mount, by their path in the container.
            entrypoint: the command, in place of the image's.
            user: number of user and group.
        """
        options = [*self.restrictions(network), "--tmpfs", "/tmp", "--user", user]
        for target, source in (volumes or {}).items():
            options += ["--volume", f"{source}:{target}"]
        if entrypoint is not None:
            options += ["--entrypoint", entrypoint]
        return options

    def run(
        self, image: str, *arguments: str, check: bool = True, timeout: float = 900, **options
    ) -> subprocess.CompletedProcess[str]:
        """Run a container to its end; `options` are those of :meth:`options`."""
        return self(
            *("run", "--rm", *self.options(**options), image, *arguments),
            check=check,
            timeout=timeout,
        )

    @contextlib.contextmanager
    def started(self, image: str, *arguments: str, **options) -> Iterator[str]:
        """Start a container, yield its name, and remove it at the end."""
        name = f"c3d-images-{uuid.uuid4().hex[:8]}"
        try:
            self("run", "--detach", "--name", name, *self.options(**options), image, *arguments)
            yield name
        finally:
            self("rm", "--force", name, check=False)

    def state(self, name: str, key: str) -> str:
        """Return a value of a container's state, such as `Running` or `ExitCode`."""
        return self("inspect", "--format", f"{{{{.State.{key}}}}}", name).stdout.strip()

    def logs(self, name: str) -> str:
        """Return what a container has printed."""
        done = self("logs", name)
        return done.stdout + done.stderr
