"""`--shard`: processes that do one share of a folder each, and their lists of failures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_client import C3DClient, expand
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.job import ExtractJob, Failure, list_name, read_failures, shard_of, write_failures
from c3d_client.shard import Shard
from c3d_client.video.sources import Scan, Source
from PIL import Image
from support.errors import error_of
from support.processes import LONG_S
from support.videos import index_frame, write_video

C3D = Path(sys.executable).with_name("c3d")
CLIENT_PAGE = Path(__file__).parents[2] / "docs" / "client.md"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A video of one clip."""
    return write_video(tmp_path_factory.mktemp("video") / "one.mp4", 16, width=64, height=48)


def make_videos(folder, names, video):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)
    return folder


def lists_in(folder):
    return sorted(path.name for path in folder.glob("failures*"))


def names_in(path):
    """The names in one list of failures."""
    return [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]


class TestShares:
    NAMES = [f"{number // 40}/v_{number}.avi" for number in range(400)] + ["caf\udce9.mp4", "ü.mp4"]

    def test_are_together_all_videos_and_each_video_is_in_one(self):
        sources = [Source(f"/videos/{name}", name) for name in self.NAMES]
        for count in (1, 2, 3, 16, 1000):
            shares = [shard_of(sources, Shard(n, count)) for n in range(1, count + 1)]
            assert sorted(s.name for share in shares for s in share) == sorted(self.NAMES), count
            if count <= 16:
                assert min(map(len, shares)) > len(self.NAMES) / count / 3, count

    def test_depend_on_the_name_alone_and_never_change(self):
        """A folder of features may be continued by another release."""
        names = ("a.mp4", "a/b.avi", "v_ApplyEyeMakeup_g01_c01.avi", "caf\udce9.mp4")
        assert [[n for n in range(1, 17) if Shard(n, 16).takes(name)] for name in names] == [
            *([1], [2], [3], [14]),
        ]
        assert Shard(3, 7).takes("caf\udce9.mp4") == Shard(3, 7).takes(r"caf\xe9.mp4")

    def test_that_do_not_exist_are_one_line_before_any_work(self, run, closed_port, video):
        for text, expected in (
            ("0/16", "shard 0/16 does not exist: the shards of 16 are 1/16 to 16/16"),
            ("17/16", "shard 17/16 does not exist: the shards of 16 are 1/16 to 16/16"),
            ("1/0", "shard 1/0 does not exist; give one such as 2/16"),
            ("/16", "shard '/16' is not a number and a count, such as 2/16"),
            ("2", "shard '2' is not a number and a count, such as 2/16"),
            ("-1/16", "shard '-1/16' is not a number and a count, such as 2/16"),
            ("2/16/3", "shard '2/16/3' is not a number and a count, such as 2/16"),
            ("1e9/1e9", "shard '1e9/1e9' is not a number and a count, such as 2/16"),
            ("\u0662/16", "shard '\u0662/16' is not a number and a count, such as 2/16"),
        ):
            code, stdout, lines = run(
                *("extract", video, "--out", video.parent / "out", "--server", closed_port),
                f"--shard={text}",
            )
            assert (code, stdout, lines) == (2, "", [f"c3d: {expected}"]), text
            assert error_of(UsageError, Shard.parse, text).args == (expected,)
            assert not (video.parent / "out").exists()
        assert Shard.parse("02/16") == Shard(2, 16)
        expected = "shard 3 is not a number and a count, such as 2/16"
        assert error_of(UsageError, Shard.parse, 3).args == (expected,)

    def test_without_videos_are_no_error_and_need_no_server(self, run, closed_port, video):
        code, stdout, lines = run(
            *("extract", video, "--out", video.parent / "out", "--server", closed_port),
            *("--shard", "1/16"),
        )
        assert (code, stdout) == (0, "")
        assert lines == ["c3d: shard 1/16 has none of the 1 videos"]
        assert not (video.parent / "out").exists()


@pytest.mark.long
class TestProcesses:
    def start(self, videos, out, server, shard, *options):
        return subprocess.Popen(
            [C3D, "extract", videos, "--out", out, "--server", server.target, "--shard", shard]
            + list(options),
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_at_the_same_time_do_each_video_once(self, narrow_server, tmp_path, video):
        names = [f"day {n % 3}/hour {n % 5}/{n}.mp4" for n in range(24)]
        videos, out = make_videos(tmp_path / "in", names, video), tmp_path / "out"
        (videos / "torn.mp4").write_bytes(video.read_bytes()[:900])
        shards = [f"{n}/3" for n in (1, 2, 3)]
        processes = [self.start(videos, out, narrow_server, shard) for shard in shards]
        done = 0
        for process in processes:
            lines = process.communicate(timeout=LONG_S)[1].splitlines()
            done += int(re.search(r"c3d: (\d+) videos done", lines[-1])[1])
            assert "skipped" not in lines[-1]
        (torn,) = [shard for shard in shards if Shard.parse(shard).takes("torn.mp4")]
        assert [process.returncode for process in processes] == [int(s == torn) for s in shards]
        assert done == 24
        listed = list_name(Shard.parse(torn))
        found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
        assert found == {f"{name}.npz" for name in names} | {listed}
        assert set(read_failures(out)) == {"torn.mp4"}

    def test_do_all_videos_of_a_folder_that_grows(self, narrow_server, tmp_path, video):
        """Each process lists the folder when it starts; the runs after the last video do the rest.

        The counts of shards differ too.
        """
        videos, out = make_videos(tmp_path / "in", ["0.mp4"], video), tmp_path / "out"
        names, total = ["0.mp4"], 0
        for number, shard in enumerate(("1/2", "3/3", "1/3"), 1):
            new = [f"{number}/{n}.mp4" for n in range(3)]
            names += new
            make_videos(tmp_path / "new", new, video)
            process = self.start(videos, out, narrow_server, shard)
            os.rename(tmp_path / "new" / str(number), videos / str(number))  # while it runs
            lines = process.communicate(timeout=LONG_S)[1]
            assert process.returncode == 0, lines
            total += sum(map(int, re.findall(r"c3d: (\d+) videos done", lines)))
        for shard in ("1/2", "2/2"):
            process = self.start(videos, out, narrow_server, shard)
            lines = process.communicate(timeout=LONG_S)[1]
            assert process.returncode == 0
            total += sum(map(int, re.findall(r"c3d: (\d+) videos done", lines)))
        assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
            f"{name}.npz" for name in names
        }
        assert total == len(names)

    def test_do_folders_of_images_too(self, narrow_server, tmp_path, run):
        for number in range(6):
            folder = tmp_path / "frames" / f"v_{number}"
            folder.mkdir(parents=True)
            for image in range(16):
                picture = Image.fromarray(index_frame(image, width=64, height=48))
                picture.save(folder / f"{image:06}.png")
        arguments = ("extract", tmp_path / "frames", "--frames", "--out", tmp_path / "out")
        done = 0
        for shard in ("1/2", "2/2"):
            code, _, lines = run(
                *(*arguments, "--server", narrow_server.target, "--shard", shard),
                *("--name", "{stem}.npy", "--layer", "fc7"),
            )
            assert code == 0
            done += int(re.search(r"c3d: (\d+) videos done", lines[-1])[1])
        assert done == 6
        assert {path.name for path in (tmp_path / "out").glob("*.npy")} == {
            f"v_{number}.npy" for number in range(6)
        }

    def test_of_a_documented_array_job_do_all_videos(self, narrow_server, tmp_path, video):
        """The script of the page, with two tasks instead of its sixteen."""
        (script,) = re.findall(r"```text\n(#!.*?#SBATCH.*?)```", CLIENT_PAGE.read_text(), re.DOTALL)
        assert "--array=1-16" in script
        assert "/16 " in script
        server = re.search(r"--server (\S+)", script)[1]
        script = script.replace("/16 ", "/2 ").replace(server, narrow_server.target)
        names = [f"{n}.mp4" for n in range(8)]
        make_videos(tmp_path / "videos", names, video)
        path = os.pathsep.join([str(C3D.parent), os.environ["PATH"]])
        for task in ("1", "2"):
            environment = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": task}
            subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=True)
        found = {p.name for p in (tmp_path / "features").iterdir()}
        assert {f"{n}.npy" for n in range(8)} <= found


class TestFailures:
    """Bad videos b0 to b7, which are repaired in turn."""

    NAMES = [f"b{n}.mp4" for n in range(8)]

    @pytest.fixture
    def videos(self, tmp_path, video):
        folder = tmp_path / "in"
        folder.mkdir()
        for name in self.NAMES:
            (folder / name).write_bytes(video.read_bytes()[:900])
        return folder

    @pytest.fixture
    def out(self, tmp_path):
        return tmp_path / "out"

    @pytest.fixture
    def run_shards(self, fake_serving, videos, out):
        """Return a function that runs shards one after the other; it returns all rows by name."""
        server = fake_serving()

        def run(*shards, sources=None, **options):
            rows = []
            for shard in shards:
                with C3DClient(server.target) as c3d:
                    job = ExtractJob(c3d, out, shard=shard, **options)
                    rows += job.run(sources or expand([videos]))
            assert len({row.source.name for row in rows}) == len(rows)
            return {row.source.name: row for row in rows}

        return run

    def repair(self, videos, video, *names):
        for name in names:
            shutil.copy(video, videos / name)

    def of(self, shard):
        return [name for name in self.NAMES if Shard.parse(shard).takes(name)]

    def test_are_in_a_list_of_each_shard(self, run_shards, out):
        rows = run_shards("1/2", "2/2")
        assert {row.status for row in rows.values()} == {"failed"}
        assert lists_in(out) == ["failures.1-of-2.csv", "failures.2-of-2.csv"]
        for n in (1, 2):
            assert names_in(out / f"failures.{n}-of-2.csv") == self.of(f"{n}/2")
        assert sorted(read_failures(out)) == self.NAMES

    @pytest.mark.parametrize("first", [(None,), ("1/2", "2/2"), ("1/3", "2/3", "3/3")])
    @pytest.mark.parametrize("then", [(None,), ("1/2", "2/2"), ("1/5", "2/5", "3/5", "4/5", "5/5")])
    def test_are_read_and_ended_by_every_later_run(
        self, run_shards, videos, out, video, first, then
    ):
        assert len(run_shards(*first)) == 8
        # Nothing has changed: no video is tried again, in whichever list it is.
        assert [row.tried for row in run_shards(*then).values()] == [False] * 8
        assert sorted(read_failures(out)) == self.NAMES
        assert lists_in(out) == sorted(
            {list_name(s and Shard.parse(s)) for s in then if not s or self.of(s)}
        )
        self.repair(videos, video, "b2.mp4", "b5.mp4")
        rows = run_shards(*first)
        assert {name for name, row in rows.items() if row.status == "done"} == {"b2.mp4", "b5.mp4"}
        left = [name for name in self.NAMES if name not in ("b2.mp4", "b5.mp4")]
        assert sorted(read_failures(out)) == left
        assert sorted(name for path in out.glob("failures*") for name in names_in(path)) == left
        self.repair(videos, video, *self.NAMES)
        run_shards(*then)
        assert read_failures(out) == {}
        assert lists_in(out) == []

    def test_that_are_over_stay_over_while_older_lists_have_them(self, run_shards, out):
        """Also where the output was deleted and the video is tried again."""
        run_shards(None)
        write_failures(out, {}, shard=Shard(1, 2))  # as a run that succeeds writes it
        assert names_in(out / "failures.csv") == self.NAMES
        assert sorted(read_failures(out)) == self.of("2/2")
        rows = run_shards("1/3", "2/3", "3/3")
        assert {name for name, row in rows.items() if row.tried} == set(self.of("1/2"))
        assert lists_in(out) == [
            "failures.1-of-3.csv",
            "failures.2-of-3.csv",
            "failures.3-of-3.csv",
        ]

    def test_of_videos_that_are_not_in_a_run_stay(self, run_shards, videos, out, video):
        run_shards("1/2", "2/2")
        (videos / "b0.mp4").unlink()
        self.repair(videos, video, "b1.mp4")
        run_shards(None)
        assert sorted(read_failures(out)) == [n for n in self.NAMES if n != "b1.mp4"]
        assert lists_in(out) == ["failures.csv"]

    def test_of_shards_that_ran_meanwhile_are_kept(self, fake_serving, videos, out):
        server = fake_serving()
        sources = expand([videos])
        with C3DClient(server.target) as c3d:
            slow = ExtractJob(c3d, out)  # reads the lists: there are none
            list(ExtractJob(c3d, out, shard="1/2").run(sources))
            list(ExtractJob(c3d, out, shard=Shard(2, 2)).run(sources))
            list(slow.run(expand([videos / "b0.mp4"])))
        assert sorted(read_failures(out)) == self.NAMES
        assert lists_in(out) == ["failures.csv"]

    def test_list_that_its_owner_writes_again_is_not_deleted(self, out, monkeypatch):
        out.mkdir()
        write_failures(out, {name: failure(name) for name in self.of("1/2")}, shard=Shard(1, 2))
        rename = os.rename

        def write_and_rename(source, target):
            if Path(source).name == "failures.1-of-2.csv":
                monkeypatch.setattr("os.rename", rename)
                new = {"new": failure("new")}
                (out / "x").mkdir()
                write_failures(out / "x", new, shard=Shard(1, 2))
                os.replace(out / "x" / "failures.1-of-2.csv", source)
            rename(source, target)

        monkeypatch.setattr("os.rename", write_and_rename)
        write_failures(out, {"other": failure("other")})
        assert names_in(out / "failures.1-of-2.csv") == ["new"]

    def test_newest_list_decides_whatever_the_clocks_of_its_machines(self, out):
        out.mkdir()
        name = self.NAMES[0]
        (shard,) = [Shard(n, 3) for n in (1, 2, 3) if Shard(n, 3).takes(name)]
        write_failures(out, {name: failure(name)})
        os.utime(out / "failures.csv", (4e9, 4e9))  # in the year 2096
        write_failures(out, {name: failure(name, "later")}, shard=shard)
        assert read_failures(out)[name].error == "later"
        assert lists_in(out) == [list_name(shard)]
        os.utime(out / list_name(shard), (4e9, 4e9))
        write_failures(out, {})
        assert lists_in(out) == []

    def test_file_that_is_no_list_is_named_and_other_names_are_not_read(self, out):
        out.mkdir()
        for name in ("failures.0-of-2.csv", "failures.3-of-2.csv", "failures.2-of-02.csv"):
            (out / name).write_text("notes")
        (out / "failures.x-of-y.csv").write_text("notes")
        assert read_failures(out) == {}
        (out / "failures.2-of-2.csv").write_text("notes")
        error = error_of(OutputError, read_failures, out)
        assert "failures.2-of-2.csv: is not a run's list of failures" in str(error)
        # The list of another process is no reason to lose this one's failures.
        write_failures(out, {"a": failure("a")}, shard=Shard(1, 2))
        assert names_in(out / "failures.1-of-2.csv") == ["a"]
        assert (out / "failures.2-of-2.csv").read_text() == "notes"

    def test_lists_are_no_inputs(self, out):
        out.mkdir()
        (out / "failures.2-of-16.csv").write_text("x")
        (out / "other.csv").write_text("x")
        scan = Scan(any_file=True)
        assert [source.name for source in expand([out], scan=scan)] == ["other.csv"]

    def test_command_names_the_list_of_its_shard(self, run, narrow_server, videos, out):
        arguments = ("extract", videos, "--out", out, "--server", narrow_server.target, "--shard")
        code, _, lines = run(*arguments, "1/2")
        count = len(self.of("1/2"))
        assert code == 2
        assert lines[-1] == (
            f"c3d: 0 videos done, 0 clips; {count} failed, listed in {out}/failures.1-of-2.csv"
        )
        code, _, lines = run(*arguments, "1/2")
        assert sum("failed before; --retry-failed tries again" in line for line in lines) == count


def failure(name, error="is damaged"):
    return Failure(name, name, "VideoDecodeError", error, "{}")
