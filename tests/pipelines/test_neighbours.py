"""The nearest neighbours of a video, by the cosine of their features."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas
import pytest
from c3d_client import VideoFeatures
from c3d_client.core.errors import ProvenanceError, UsageError
from c3d_client.results import Timings
from c3d_pipelines.commands.dataset import neighbours
from c3d_pipelines.dataset.reader import Neighbour
from click.testing import CliRunner
from support.sample_dataset import CURRENT, OK, ROWS
from support.sample_shards import (
    NEWER,
    OTHER,
    PROVENANCE,
    feature_of,
    numbers_of,
)


class TestNearest:
    def expected(self, query: np.ndarray, exclude: str = "") -> list[tuple[str, float]]:
        ranked = [
            (name, float(feature_of(CURRENT[name]) @ query)) for name in OK if name != exclude
        ]
        return sorted(ranked, key=lambda neighbour: -neighbour[1])

    def test_neighbours_are_ordered_by_the_cosine_without_the_query(self, opened):
        near = opened.nearest("5.mp4", k=3)
        expected = self.expected(feature_of(ROWS[5]), exclude="5.mp4")
        assert [neighbour.video_id for neighbour in near] == [name for name, _ in expected[:3]]
        assert near[0].video_id == "twin.mp4"
        assert near[0].similarity == pytest.approx(1)
        similarities = [similarity for _, similarity in expected[:3]]
        assert [neighbour.similarity for neighbour in near] == pytest.approx(similarities)

    def test_query_may_have_any_length(self, opened):
        query = np.random.default_rng(1).random(4096) * 50
        near = opened.nearest(query, k=100)
        expected = self.expected(query / np.linalg.norm(query))
        assert [neighbour.video_id for neighbour in near] == [name for name, _ in expected]
        similarities = [similarity for _, similarity in expected]
        assert [neighbour.similarity for neighbour in near] == pytest.approx(similarities)

    def test_equal_neighbours_are_ordered_by_id(self, opened):
        near = opened.nearest(feature_of(ROWS[5]), k=2)
        assert [neighbour.video_id for neighbour in near] == ["5.mp4", "twin.mp4"]

    def test_query_may_be_an_extracted_video(self, opened):
        for provenance in (PROVENANCE, NEWER):
            near = opened.nearest(self.features(provenance), k=1)
            assert near[0].video_id == "3.mp4"

    def test_query_that_was_extracted_differently_is_refused(self, opened):
        with pytest.raises(ProvenanceError, match="model.precision: 'float32' against 'bfloat16'"):
            opened.nearest(self.features(OTHER))

    def test_invalid_query_is_one_line(self, opened):
        for query, k, message in (
            ("2.mp4", 1, "2.mp4 has no features; it is corrupt"),
            ("x", 1, "has no video 'x'"),
            (np.ones(5), 1, r"shape \[5\]"),
            (np.zeros(4096), 1, "length 0"),
            (np.full(4096, np.nan), 1, "length nan"),
            ("5.mp4", 0, "k is 0; give 1 or more"),
        ):
            with pytest.raises(UsageError, match=message):
                opened.nearest(query, k=k)

    def test_command_prints_neighbours(self, features_dataset):
        result = CliRunner().invoke(neighbours, [str(features_dataset), "5.mp4", "-k", "2"])
        assert result.exit_code == 0
        first, second = result.output.splitlines()
        assert first == "1.0000  twin.mp4"
        assert re.fullmatch(r"0\.\d{4}  \d\.mp4", second)

    def test_command_escapes_what_a_terminal_would_act_on(self, monkeypatch):
        class Opened:
            def nearest(self, query, *, k):
                return [Neighbour("a\x1b[2J.mp4", 1.0)]

        monkeypatch.setattr("c3d_pipelines.dataset.open", lambda path: Opened())
        result = CliRunner().invoke(neighbours, ["any", "5.mp4"])
        assert result.output == "1.0000  a\\x1b[2J.mp4\n"

    def test_command_prints_neighbours_as_json(self, features_dataset):
        result = CliRunner().invoke(neighbours, [str(features_dataset), "5.mp4", "--json"])
        table = pandas.read_json(io.StringIO(result.output), lines=True)
        assert table.video_id[0] == "twin.mp4"
        assert len(table) == 6

    def features(self, provenance) -> VideoFeatures:
        return VideoFeatures(
            clip_starts=np.arange(1),
            clip_times_s=np.zeros((1, 2)),
            clip_features=numbers_of(ROWS[3]),
            video_feature=feature_of(ROWS[3]),
            provenance={**provenance, "video": {"source": "now.mp4"}},
            timings=Timings(0, 0, 0, None, None),
        )
