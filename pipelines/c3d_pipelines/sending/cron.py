"""Kubeflow's times of a schedule: six fields, the seconds first, in UTC unless the cluster differs.

What people know has five, and Kubeflow takes it, as something else: ``0 2 * * *``, two in the
morning to everyone else, runs there in the second minute of each hour.
"""

from __future__ import annotations

import re

from c3d_client.errors import UsageError

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
_DAYS = "sun mon tue wed thu fri sat"
_FIELDS = (
    ("seconds", 0, 59, ()),
    ("minutes", 0, 59, ()),
    ("hours", 0, 23, ()),
    ("days of the month", 1, 31, ()),
    (
        "months",
        1,
        12,
        tuple(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ),
    ("days of the week", 0, 6, tuple(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])),
)
_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = re.compile(r"@every ([0-9]+(\.[0-9]+)?(h|m|s))+")


def check_cron(text: str) -> str:
    """The times of a schedule, checked; as Kubeflow wants them.

    Raises:
        UsageError: they are not; the message says how to write them.
    """
    cron = " ".join(text.split())
    if cron in _WORDS or _EVERY.fullmatch(cron):
        return cron
    if cron.startswith("@"):
        raise UsageError(f"cron is {text!r}; give six fields, or {', '.join(_WORDS)}")
    fields = cron.split(" ")
    if len(fields) == len(_FIELDS) - 1:
        raise UsageError(
            f"cron is {text!r}, five fields; Kubeflow's has six, the seconds first: '0 {cron}'"
        )
    if len(fields) != len(_FIELDS):
        raise UsageError(
            f"cron is {text!r}; give six fields: seconds, minutes, hours, day of the month, month, "
            "day of the week, such as '0 0 2 * * *' for each day at two"
        )
    for value, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in value.split(","):
            if not _is_part(part, low, high, names):
                known = f", {names[0]} to {names[-1]}" if names else ""
                raise UsageError(
                    f"cron is {text!r}: {value!r} is not for {name}; give {low} to {high}{known}, "
                    "*, a-b, */n, or several with commas"
                )
    return cron


def _is_part(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    ends = [_number(end, low, names) for end in span.split("-")]
    if len(ends) > 2 or None in ends:
        return False
    numbers = [end for end in ends if end is not None]
    return low <= numbers[0] <= numbers[-1] <= high


def _number(text: str, low: int, names: tuple[str, ...]) -> int | None:
    if text.isascii() and text.isdecimal():
        return int(text)
    return names.index(text.lower()) + low if text.lower() in names else None
