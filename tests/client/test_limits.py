"""The CPU and memory limits of this process, in every form in which cgroups are mounted."""

import json
import os

import pytest
from c3d_client.core import limits
from c3d_client.core.limits import core_count, cpu_limit, memory_limit
from c3d_client.parallel import share_cores
from support.cgroups import limited

MIB = 1 << 20
NONE_V1 = 9223372036854771712


@pytest.fixture
def machine(tmp_path):
    """A function that makes the files of a machine and returns their root."""

    def make(cgroup: str, mounts: list[str], files: dict[str, object]):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        others = [
            "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
            "24 23 0:22 / /proc rw,nosuid - proc proc rw",
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
        ]
        (tmp_path / "proc/self/mountinfo").write_text("\n".join([*others, *mounts]) + "\n")
        for name, content in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path

    return make


def v1(controllers: str, root: str = "/", at: str = "") -> str:
    """Return a line of mountinfo for a hierarchy of version 1."""
    at = at or f"/sys/fs/cgroup/{controllers}"
    return f"32 31 0:29 {root} {at} rw,relatime shared:9 - cgroup cgroup rw,{controllers}"


def v2(root: str = "/", at: str = "/sys/fs/cgroup") -> str:
    """Return a line of mountinfo for the hierarchy of version 2."""
    return f"40 23 0:30 {root} {at} rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate"


def both(root) -> tuple[float | None, int | None]:
    return cpu_limit(root=root), memory_limit(root=root)


def test_version_2_in_a_container_of_its_own_namespace(machine):
    files = {"cpu.max": "150000 100000", "memory.max": 640 * MIB}
    assert both(machine("0::/\n", [v2()], files)) == (1.5, 640 * MIB)


def test_version_2_without_limits(machine):
    assert both(machine("0::/\n", [v2()], {"cpu.max": "max 100000", "memory.max": "max"})) == (
        None,
        None,
    )


def test_version_2_on_a_host_takes_the_smallest_limit_of_all_groups_above(machine):
    files = {
        "a.slice/cpu.max": "50000 100000",
        "a.slice/memory.max": "max",
        "a.slice/b.scope/cpu.max": "max 100000",
        "a.slice/b.scope/memory.max": 3000 * MIB,
        "a.slice/b.scope/inner/cpu.max": "400000 100000",
        "a.slice/b.scope/inner/memory.max": 4000 * MIB,
        "other/cpu.max": "1000 100000",
        "other/memory.max": MIB,
    }
    root = machine("0::/a.slice/b.scope/inner\n", [v2()], files)
    assert both(root) == (0.5, 3000 * MIB)


V1_PATH = "/kubepods/burstable/pod1/abc"
V1_CGROUP = f"9:memory:{V1_PATH}\n5:cpu,cpuacct:{V1_PATH}\n1:name=systemd:{V1_PATH}\n"


def test_version_1_in_a_container_whose_own_group_is_mounted(machine):
    # As Docker and containerd without a namespace of cgroups: the path is the host's.
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": 250000,
        "cpu,cpuacct/cpu.cfs_period_us": 100000,
        "memory/memory.limit_in_bytes": 512 * MIB,
    }
    mounts = [v1("cpu,cpuacct", V1_PATH), v1("memory", V1_PATH)]
    assert both(machine(V1_CGROUP, mounts, files)) == (2.5, 512 * MIB)


def test_version_1_in_a_container_that_sees_its_own_group_under_the_hosts_path(machine):
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": 250000,
        "cpu,cpuacct/cpu.cfs_period_us": 50000,
        "memory/memory.limit_in_bytes": 512 * MIB,
    }
    mounts = [v1("cpu,cpuacct"), v1("memory")]
    assert both(machine(V1_CGROUP, mounts, files)) == (5.0, 512 * MIB)


def test_version_1_without_limits(machine):
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/cpu.cfs_period_us": 100000,
        "memory/memory.limit_in_bytes": NONE_V1,
        "memory/memory.stat": f"cache 0\nhierarchical_memory_limit {NONE_V1}",
    }
    root = machine(V1_CGROUP.replace(V1_PATH, "/"), [v1("cpu,cpuacct"), v1("memory")], files)
    assert both(root) == (None, None)


def test_version_1_takes_the_smallest_limit_of_all_groups_above(machine):
    files = {
        "cpu,cpuacct/kubepods/cpu.cfs_quota_us": 400000,
        "cpu,cpuacct/kubepods/cpu.cfs_period_us": 100000,
        "cpu,cpuacct/kubepods/burstable/pod1/cpu.cfs_quota_us": 70000,
        "cpu,cpuacct/kubepods/burstable/pod1/cpu.cfs_period_us": 100000,
        "cpu,cpuacct/kubepods/burstable/pod1/abc/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/kubepods/burstable/pod1/abc/cpu.cfs_period_us": 100000,
        "memory/kubepods/burstable/pod1/memory.limit_in_bytes": 900 * MIB,
        "memory/kubepods/burstable/pod1/abc/memory.limit_in_bytes": 1000 * MIB,
    }
    root = machine(V1_CGROUP, [v1("cpu,cpuacct"), v1("memory")], files)
    assert both(root) == (0.7, 900 * MIB)


def test_version_1_counts_the_limit_of_a_group_that_the_container_does_not_see(machine):
    files = {
        "memory/memory.limit_in_bytes": NONE_V1,
        "memory/memory.stat": f"cache 0\nhierarchical_memory_limit {300 * MIB}\ntotal_cache 1",
    }
    assert memory_limit(root=machine(V1_CGROUP, [v1("memory", V1_PATH)], files)) == 300 * MIB


def test_hybrid_mounts_take_each_limit_from_its_own_version(machine):
    files = {
        "cpu/box/cpu.cfs_quota_us": 100000,
        "cpu/box/cpu.cfs_period_us": 100000,
        "unified/box/memory.max": 800 * MIB,
    }
    mounts = [v1("cpu"), v2(at="/sys/fs/cgroup/unified")]
    assert both(machine("2:cpu:/box\n0::/box\n", mounts, files)) == (1.0, 800 * MIB)


def test_hybrid_mounts_with_a_group_in_both_versions_take_the_smaller_limit(machine):
    files = {
        "memory/box/memory.limit_in_bytes": 700 * MIB,
        "unified/box/memory.max": 800 * MIB,
    }
    mounts = [v1("memory"), v2(at="/sys/fs/cgroup/unified")]
    assert memory_limit(root=machine("2:memory:/box\n0::/box\n", mounts, files)) == 700 * MIB


def test_group_outside_of_the_namespace_has_the_limits_of_the_mount(machine):
    files = {"cpu.max": "200000 100000", "memory.max": MIB}
    root = machine("0::/../../other\n", [v2(root="/../..")], files)
    assert both(root) == (2.0, MIB)


def test_mount_at_a_path_with_a_space(machine):
    root = machine("0::/a b\n", [v2(at="/sys/fs/cgroup/in\\040here")], {})
    folder = root / "sys/fs/cgroup/in here/a b"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("1000\n")
    assert memory_limit(root=root) == 1000


def test_what_cannot_be_read_is_no_limit(machine, tmp_path):
    assert both(tmp_path / "nothing") == (None, None)
    files = {"cpu.max": "often", "memory.max": "\udcff much".encode("utf-8", "replace")}
    root = machine("0::/\nnonsense\n:\n", [v2(), "x - cgroup2", "- cgroup cgroup"], files)
    assert both(root) == (None, None)
    (root / "sys/fs/cgroup/cpu.max").unlink()
    (root / "sys/fs/cgroup/cpu.max").mkdir()
    for text in ("0 100000", "100000 0", "", "100000"):
        (root / "sys/fs/cgroup/memory.max").write_text(text)
        assert cpu_limit(root=root) is None, text
    (root / "proc/self/cgroup").write_bytes(b"0::/\xff\xfe\n")
    assert both(root)[0] is None


def test_no_more_cores_than_the_limit_rounded_up_and_at_least_one(monkeypatch):
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    cases = [(None, 8), (0.1, 1), (1.0, 1), (1.5, 2), (7.01, 8), (64.0, 8)]
    for limit, cores in cases:
        monkeypatch.setattr(limits, "cpu_limit", lambda limit=limit: limit)
        assert core_count() == cores, limit


PRINTED = """
import json
from c3d_client.core.limits import core_count, cpu_limit, memory_limit
from c3d_client.parallel import share_cores
print(json.dumps([cpu_limit(), memory_limit(), core_count(), share_cores(None)]))
"""


def test_a_process_in_a_real_group_has_its_limits():
    with limited(cpus=0.4, memory=333 * MIB) as group:
        assert json.loads(group.run(PRINTED)) == [0.4, 333 * MIB, 1, [1, 1]]
    with limited(cpus=1.2, memory=444 * MIB) as group:
        cores = min(2, len(os.sched_getaffinity(0)))
        assert json.loads(group.run(PRINTED)) == [1.2, 444 * MIB, cores, [cores, 1]]


def test_workers_share_the_cores_of_the_limit(monkeypatch):
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr(limits, "cpu_limit", lambda: 3.5)
    assert share_cores(None) == (4, 1)
    assert share_cores(None, videos=2) == (2, 2)
