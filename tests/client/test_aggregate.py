"""Clip outputs to one answer: the mean, its length, and the best classes."""

import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_client.results import ClassScore, RunningMean, l2_normalise, top_classes

ROWS = np.random.default_rng(3).standard_normal((30, 50)).astype(np.float32) ** 2


def mean_in_batches(rows, size):
    mean = RunningMean()
    for start in range(0, len(rows), size):
        mean.add(rows[start : start + size])
    return mean


@pytest.mark.parametrize("size", [1, 3, 8, 29, 30])
def test_the_mean_does_not_depend_on_how_rows_were_batched(size):
    mean = mean_in_batches(ROWS, size)
    assert mean.count == 30
    assert mean.value().dtype == np.float64
    assert mean.value() == pytest.approx(ROWS.astype(np.float64).mean(axis=0), rel=1e-12)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_mean_is_exact_where_the_sums_are(size):
    rows = np.arange(64, dtype=np.float32).reshape(16, 4)
    assert mean_in_batches(rows, size).value().tolist() == [30.0, 31.0, 32.0, 33.0]


def test_the_mean_is_summed_in_float64():
    # In float32 the ones vanish beside 2**24.
    rows = np.array([[2.0**24]] + [[1.0]] * 7, np.float32)
    assert mean_in_batches(rows, 1).value()[0] == (2.0**24 + 7) / 8


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        RunningMean().value()


def test_a_feature_has_length_one_in_float32():
    feature = l2_normalise(ROWS.astype(np.float64).mean(axis=0))
    assert feature.dtype == np.float32
    assert np.linalg.norm(feature.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)


def test_normalising_keeps_the_direction():
    assert l2_normalise(np.array([3.0, 4.0])) == pytest.approx([0.6, 0.8], abs=1e-7)


def test_large_float32_values_do_not_overflow():
    feature = l2_normalise(np.full(4, 1e30, np.float32))
    assert feature == pytest.approx([0.5] * 4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, np.nan], "NaN or infinity"),
        ([1.0, np.inf], "NaN or infinity"),
        ([0.0, 0.0], "zero everywhere"),
    ],
)
def test_what_is_no_feature_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        l2_normalise(np.array(values))


class TestTopClasses:
    LABELS = ("a", "b", "c", "d")

    def test_the_best_come_first(self):
        top = top_classes(np.array([0.1, 0.4, 0.2, 0.3]), self.LABELS, top_k=3)
        assert top == (ClassScore(1, "b", 0.4), ClassScore(3, "d", 0.3), ClassScore(2, "c", 0.2))

    def test_among_equals_the_lower_index_comes_first(self):
        # Many classes: sorts that are not stable keep the order of a few.
        probabilities = np.tile([0.1, 0.4], 100)
        top = top_classes(probabilities, [""] * 200, top_k=200)
        assert [score.index for score in top] == [*range(1, 200, 2), *range(0, 200, 2)]

    def test_more_than_there_are_gives_all(self):
        assert len(top_classes(np.full(4, 0.25), self.LABELS, top_k=100)) == 4

    @pytest.mark.parametrize("top_k", [0, -1])
    def test_fewer_than_one_is_refused(self, top_k):
        with pytest.raises(UsageError, match=f"top_k is {top_k}"):
            top_classes(np.full(4, 0.25), self.LABELS, top_k=top_k)
