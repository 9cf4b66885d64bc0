"""The cluster: whether it may be used, what is brought to it, and what is removed at the end."""

from __future__ import annotations

import os
import signal

import pytest

from cluster import images, kube

# The files that take minutes, the longest first; each is run by one process, without a pause.
_LONGEST = ("test_documents.py", "test_serving.py", "test_pipeline_pods.py", "test_jobs.py")
_WANTED = "set KUBECONFIG and C3D_TEST_CLUSTER=yes for the tests on a cluster"


def pytest_sessionstart(session) -> None:
    """Refuse a cluster where the tests' namespaces exist, and load the images.

    Called by pytest only if this folder is named on its command line, as `make test-cluster` does.
    The tests of the test server need no cluster.
    """
    options = session.config.option
    if _is_worker(session.config) or options.collectonly or options.markexpr != "cluster":
        return
    if not _may_use_cluster():
        pytest.exit(f"skipped: {_WANTED}", returncode=0)
    # A job of CI that is stopped removes what it made, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    existing = sorted(kube.existing_namespaces())
    if existing:
        pytest.exit(
            f"namespace {existing[0]} exists; these tests make and delete it, and use only a "
            f"cluster without it (left by a stopped run: kubectl delete namespace {existing[0]})",
            returncode=1,
        )
    session.config.stash[_BEFORE] = kube.cluster_objects()
    try:
        images.bring(os.environ.get("LOAD_IMAGE"))
    except images.ImageError as error:
        pytest.exit(str(error), returncode=1)


def pytest_collection_modifyitems(items) -> None:
    """Begin with the files that take longest."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session) -> None:
    """Remove what the tests made, after failures and Ctrl-C too, once the processes have ended."""
    before = session.config.stash.get(_BEFORE, None)
    if before is not None:
        print("\nremoving what the tests made", flush=True)
        kube.remove(kube.existing_namespaces(), kube.cluster_objects() - before)


@pytest.fixture(scope="session")
def permission() -> None:
    """Skip the tests of a cluster where none may be used."""
    if not _may_use_cluster():
        pytest.skip(_WANTED)


_BEFORE = pytest.StashKey[set[str]]()


def _may_use_cluster() -> bool:
    return bool(os.environ.get("KUBECONFIG")) and os.environ.get("C3D_TEST_CLUSTER") == "yes"


def _is_worker(config) -> bool:
    return hasattr(config, "workerinput")
