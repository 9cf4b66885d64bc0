"""Retries: growing pauses, and which errors are retried."""

from __future__ import annotations

from itertools import islice

import pytest
from c3d_client.core.retry import pauses, retry


def test_pauses_grow_to_the_longest_for_thousands_of_retries():
    assert list(islice(pauses(0.5, longest_s=10), 7)) == [0.5, 1.0, 2.0, 4.0, 8.0, 10, 10]
    # A power of two overflows a float after 1,024 retries: three hours of 10 s pauses.
    assert set(islice(pauses(0.5, longest_s=10), 5, 5000)) == {10}


def test_transient_errors_are_retried_and_the_last_one_is_raised():
    for attempts, errors, expected in (
        (3, [OSError("a"), OSError("b")], "result"),
        (2, [OSError("a"), OSError("b")], "b"),
        (3, [ValueError("c")], "c"),
    ):
        left, waited = list(errors), []

        def call(left=left):
            if left:
                raise left.pop(0)
            return "result"

        def run(call=call, attempts=attempts, waited=waited):
            return retry(
                call,
                attempts=attempts,
                is_transient=lambda error: isinstance(error, OSError),
                first_pause_s=0.1,
                sleep=waited.append,
            )

        if expected == "result":
            assert run() == expected
            assert waited == [0.1, 0.2]
        else:
            with pytest.raises((OSError, ValueError), match=expected):
                run()
            assert len(waited) == min(attempts, len(errors)) - 1, errors
