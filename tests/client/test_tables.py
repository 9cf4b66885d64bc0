"""Classifications as JSON and CSV: every number is exact."""

import csv
import io
import json

import numpy as np
import pytest
from c3d_client import C3DClient
from c3d_client.core.errors import UsageError
from c3d_client.views import tables
from support.sample_classification import HOSTILE, classified, random_probabilities


@pytest.fixture(scope="module")
def answer(narrow_server, carphone):
    with C3DClient(f"localhost:{narrow_server.port}") as c3d:
        return c3d.classify(carphone)


def test_json_has_the_exact_numbers(answer):
    file = io.StringIO()
    tables.write_json(file, "films/carphone", answer, top_k=3)
    document = json.loads(file.getvalue())
    assert document == tables.as_json("films/carphone", answer, top_k=3)
    assert (document["video"], document["frames"]) == ("films/carphone", 120)
    assert (document["width"], document["height"]) == (176, 144)
    assert document["provenance"] == answer.provenance
    assert document["timings"]["wall_s"] == answer.timings.wall_s
    assert [best["index"] for best in document["top"]] == [best.index for best in answer.top[:3]]
    assert len(document["clips"]) == len(answer.clip_starts) == 14
    for number, clip in enumerate(document["clips"]):
        row = answer.clip_probabilities[number]
        assert clip["start_frame"] == answer.clip_starts[number]
        assert [clip["start_s"], clip["end_s"]] == answer.clip_times_s[number].tolist()
        assert [best["index"] for best in clip["top"]] == np.argsort(-row)[:3].tolist()
        for best in clip["top"]:
            assert np.float32(best["probability"]) == row[best["index"]]
            assert best["label"] == answer.labels[best["index"]]


def test_several_videos_are_json_lines_of_ascii():
    file = io.StringIO()
    for name in ("one \udcff", "two\n"):
        tables.write_json(file, name, classified([[0.5, 0.5]], labels=HOSTILE[5:7]))
    lines = file.getvalue().splitlines()
    assert [json.loads(line)["video"] for line in lines] == [r"one \xff", "two\n"]
    assert json.loads(lines[0])["top"][0]["label"] == HOSTILE[5]
    assert file.getvalue().isascii()


def test_unknown_properties_of_the_video_are_null():
    document = tables.as_json("video", classified([[1.0]]))
    assert (document["frames"], document["fps"], document["width"]) == (16, None, None)


def test_csv_has_the_best_classes_of_the_video_and_then_of_each_clip():
    classification = classified(random_probabilities(3, 9))
    rows = list(tables.csv_rows("video.mp4", classification, top_k=2))
    assert len(rows) == 2 + 3 * 2
    assert all(len(row) == len(tables.CSV_HEADER) for row in rows)
    best = classification.top[0]
    assert rows[0] == ("video.mp4", "", 0, 0.0, 1.28, 1, best.index, best.label, best.probability)
    assert [row[1] for row in rows] == ["", "", 0, 0, 1, 1, 2, 2]
    assert [row[5] for row in rows] == [1, 2] * 4
    assert rows[4][2:5] == (8, 0.32, 0.96)


def test_csv_of_several_videos_is_read_back_exactly(tmp_path):
    videos = {"a, b.mp4": classified(random_probabilities(4, 10), labels=HOSTILE)}
    last = classified(random_probabilities(2, 10, seed=1), labels=HOSTILE, fps=29.97)
    videos['say "video"\n.mp4'] = last
    path = tmp_path / "films.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        tables.write_csv_header(file)
        for name, classification in videos.items():
            tables.write_csv(file, name, classification, top_k=10)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == tables.CSV_HEADER
    written = [row for name in videos for row in tables.csv_rows(name, videos[name], top_k=10)]
    kinds = (str, lambda text: int(text) if text else "", int, float, float, int, int, str, float)
    assert [
        tuple(kind(text) for kind, text in zip(kinds, row, strict=True)) for row in rows
    ] == written
    assert {row[7] for row in rows} == set(HOSTILE)
    assert [float(text) for text in rows[-1][3:5]] == last.clip_times_s[1].tolist()
    assert np.float32(rows[-10][8]) == last.clip_probabilities[1].max()


def test_zero_classes_are_refused():
    classification = classified([[1.0]])
    with pytest.raises(UsageError, match="top_k is 0; give 1 or more"):
        tables.as_json("video", classification, top_k=0)
    with pytest.raises(UsageError, match="top_k is 0; give 1 or more"):
        list(tables.csv_rows("video", classification, top_k=0))
