"""`c3d extract` reads videos from an object store and from the web, and reports each."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_client import read_features
from support.processes import LONG_S
from support.s3_server import s3_server
from support.videos import write_video
from support.web_server import web_server


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", 40)


@pytest.fixture(scope="module")
def store(tmp_path_factory, video):
    """An S3 server with two videos in folders and one truncated video."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: videos on S3 not run")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        bucket = server.file_system()
        bucket.mkdir("videos")
        bucket.pipe("videos/day 1/a.mp4", video.read_bytes())
        bucket.pipe("videos/day 2/a.mp4", video.read_bytes())
        bucket.pipe("videos/day 2/torn.mp4", video.read_bytes()[:700])
        yield server


def extract(out, target, *inputs, **environment):
    return subprocess.run(
        [str(Path(sys.executable).with_name("c3d")), "extract", *inputs]
        + ["--out", str(out), "--server", target],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=LONG_S,
    )


def test_bucket_is_extracted_and_a_second_run_skips_finished_videos(store, narrow_server, tmp_path):
    out = tmp_path / "features"
    done = extract(out, narrow_server.target, "s3://videos/", **store.environment)
    assert done.returncode == 1
    assert "2 videos done, 8 clips; 1 failed" in done.stderr
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.npz"))
    assert names == ["day 1/a.mp4.npz", "day 2/a.mp4.npz"]
    recorded = read_features(out / names[0]).provenance["video"]
    assert recorded["source"] == "s3://videos/day 1/a.mp4"
    assert recorded["fingerprint"]["etag"]
    with (out / "failures.csv").open(newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == ["day 2/torn.mp4"]
    repeated = extract(out, narrow_server.target, "s3://videos/", **store.environment)
    assert repeated.returncode == 1
    assert "0 videos done, 0 clips; 2 skipped, done before; 1 failed" in repeated.stderr


def test_wrong_credentials_are_a_one_line_error_without_output(store, narrow_server, tmp_path):
    wrong = {**store.environment, "AWS_SECRET_ACCESS_KEY": "guessed-17"}
    done = extract(tmp_path / "features", narrow_server.target, "s3://videos/", **wrong)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("c3d: s3://videos: cannot be listed: access denied")
    assert "guessed-17" not in done.stderr
    assert not (tmp_path / "features").exists()


def test_signed_uri_is_extracted_and_its_signature_is_not_shown(video, narrow_server, tmp_path):
    with web_server() as web:
        web.files["/video.mp4"] = video.read_bytes()
        uri = f"{web.url}/video.mp4?X-Amz-Signature=secret17"
        done = extract(tmp_path / "features", narrow_server.target, uri)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "features").glob("*.npz")
    assert path.name == "video.mp4.npz"
    features = read_features(path)
    assert len(features.clip_starts) == 4
    assert "secret17" not in str(features.provenance) + done.stderr
