"""The cut into shards: every row once, in order, with about equal work."""

import random
import time

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.inputs.plan import cut_into_shards

MB = 1_000_000


def cut(rows, *, shard_mb=10.0, shard_minutes=10.0, max_shards=200):
    """Cut rows into shards and check that they hold every row once and in order."""
    shards = cut_into_shards(
        rows, shard_mb=shard_mb, shard_minutes=shard_minutes, max_shards=max_shards
    )
    assert [row for shard in shards for row in shard.rows] == list(rows)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.rows for shard in shards)
    return shards


def of_sizes(*megabytes):
    return [ManifestRow(f"v{n}", f"v{n}.mp4", int(mb * MB)) for n, mb in enumerate(megabytes)]


def of_minutes(*minutes):
    return [ManifestRow(f"v{n}", f"v{n}.mp4", MB, m * 60.0) for n, m in enumerate(minutes)]


def sizes(shards):
    return [shard.size_bytes / MB for shard in shards]


def test_shards_stay_below_their_size_and_a_larger_video_is_alone():
    shards = cut(of_sizes(5, 5, 1, 20, 3, 3, 3, 3, 9))
    assert sizes(shards) == [5, 6, 20, 6, 6, 9]


def test_shards_are_few_and_even():
    assert sizes(cut(of_sizes(*[1] * 12))) == [6, 6]
    assert sizes(cut(of_sizes(*[1] * 10))) == [10]
    assert sizes(cut(of_sizes(4, 4, 4, 1, 1, 1))) == [8, 7]


def test_work_is_the_length_where_all_lengths_are_known():
    rows = of_minutes(6, 6, 3, 3, 3)
    assert [shard.duration_s / 60 for shard in cut(rows)] == [6, 9, 6]
    some = [*rows, ManifestRow("w", "w.mp4", MB)]
    assert len(cut(some, shard_mb=6)) == 1


def test_row_without_a_size_counts_as_the_mean_of_the_others():
    assert [len(shard.rows) for shard in cut(of_sizes(6, 0, 4, 0))] == [1, 2, 1]
    assert len(cut(of_sizes(9, 0, 0, 0))) == 4


def test_row_counts_as_a_minute_where_nothing_is_known():
    assert [len(shard.rows) for shard in cut(of_sizes(*[0] * 20))] == [10, 10]


def test_limit_is_raised_evenly_for_too_many_shards():
    shards = cut(of_sizes(*[5] * 100), max_shards=7)
    assert len(shards) == 7
    assert max(sizes(shards)) == 75
    assert len(cut(of_sizes(1, 50, 1), max_shards=1)) == 1


def test_no_input_is_no_shard_and_one_input_is_one_shard():
    assert cut([]) == []
    assert sizes(cut(of_sizes(500))) == [500]
    assert sizes(cut(of_sizes(0.000001), shard_mb=0.000001)) == [0.000001]


def test_any_inputs_are_cut_within_their_limits():
    for seed in range(30):
        rng = random.Random(seed)
        rows = of_sizes(*(rng.lognormvariate(0, 2) for _ in range(rng.randrange(1, 300))))
        limit, most = rng.uniform(0.5, 50), rng.randrange(1, 40)
        shards = cut(rows, shard_mb=limit, max_shards=most)
        total, largest = sum(sizes(shards)), max(row.size_bytes for row in rows) / MB
        if (fewest := simply_cut(rows, limit * MB)) <= most:
            assert len(shards) == fewest, seed
            assert all(len(part.rows) == 1 or part.size_bytes <= limit * MB for part in shards), (
                seed
            )
        else:
            assert len(shards) <= most, seed
            assert max(sizes(shards)) <= total / most + largest, seed


def simply_cut(rows, limit):
    """Return the number of shards that are each filled up to the limit."""
    count, filled = 0, limit
    for row in rows:
        filled += row.size_bytes
        if filled > limit:
            count, filled = count + 1, row.size_bytes
    return count


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shard_mb", 0),
        ("shard_mb", -1.0),
        ("shard_mb", float("nan")),
        ("shard_minutes", float("inf")),
        ("shard_minutes", 0.0),
        ("max_shards", 0),
    ],
)
def test_limit_that_is_not_positive_is_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} is {value}; give"):
        cut(of_sizes(1), **{name: value})


def test_two_hundred_thousand_videos_are_cut_in_seconds():
    rng = random.Random(0)
    rows = [
        ManifestRow(f"v{n}", "u", 1, length)
        for n, length in enumerate(rng.lognormvariate(4, 1.5) for _ in range(200_000))
    ]
    started = time.process_time()  # other processes take none of it
    shards = cut_into_shards(rows, shard_mb=4000, shard_minutes=240, max_shards=200)
    assert time.process_time() - started < 20
    assert len(shards) == 200
    lengths = [shard.duration_s for shard in shards]
    assert max(lengths) < 1.05 * sum(lengths) / 200
