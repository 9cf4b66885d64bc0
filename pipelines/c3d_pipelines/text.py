"""Format numbers and foreign text for people: counts, sizes, times, shares, one-line messages."""

from __future__ import annotations

import datetime

from c3d_client.core.text import JOINERS, escape_bytes

LONGEST = 4000  # characters of one text in a report; a message may hold a whole log
_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")


def count(number: float, noun: str = "", plural: str = "") -> str:
    """Return a whole number with separated thousands, and its noun where one is given.

    >>> count(1204, "video")
    '1,204 videos'
    """
    text = f"{number:,.0f}"
    if not noun:
        return text
    return f"{text} {noun if number == 1 else plural or noun + 's'}"


def was(number: int) -> str:
    """Return ``was`` or ``were``, as a number needs it."""
    return "was" if number == 1 else "were"


def significant(number: float) -> str:
    """Return a number with three significant digits and, unless it is tiny, without an exponent.

    >>> significant(0.012345), significant(3.14159), significant(12345.6)
    ('0.0123', '3.14', '12,346')
    """
    if abs(number) < 100:
        number = float(f"{number:.3g}")
    if number == 0 or abs(number) >= 100:
        return f"{number:,.0f}"
    for digits, smallest in enumerate((10, 1, 0.1, 0.01, 0.001), start=1):
        if abs(number) >= smallest:
            return f"{number:.{digits}f}"
    return f"{number:.2g}" if abs(number) >= 1e-4 else f"{number:.0e}"


def size(number: float) -> str:
    """Return a size in bytes, in powers of a thousand.

    >>> size(999), size(1_250_000)
    ('999 bytes', '1.25 MB')
    """
    for unit in _SIZES:
        if abs(number) < 999.5 or unit == _SIZES[-1]:
            break
        number /= 1000
    return f"{significant(number)} {unit}" if unit != "bytes" else count(number, "byte")


def length(seconds: float) -> str:
    """Return a length of time in at most two units.

    >>> length(0.0123), length(75), length(7260), length(200_000)
    ('0.0123 s', '1 min 15 s', '2 h 1 min', '2 d 8 h')
    """
    if seconds < 59.95:
        return f"{significant(seconds)} s"
    for big, small, unit, part in ((60, 1, "min", "s"), (3600, 60, "h", "min")):
        whole, rest = divmod(round(seconds / small), big // small)
        if whole * big < {"min": 3600, "h": 172_800}[unit]:
            return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} d {hours} h" if hours else f"{days:,} d"


def instant(seconds: float) -> str:
    """Return seconds since 1970 as a date and a time of day, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime(
        "%Y-%m-%d %H:%M:%S"
    )


def share(part: float, whole: float) -> str:
    """Return a share in percent; 0 % and 100 % are exact.

    >>> share(1, 3), share(1, 100_000), share(99_999, 100_000), share(1, 1)
    ('33.3 %', '< 0.1 %', '> 99.9 %', '100 %')
    """
    if part in (0, whole):
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.05 or percent >= 99.95:
        return "< 0.1 %" if percent < 50 else "> 99.9 %"
    return f"{percent:.1f} %"


def shortened(value: str, longest: int) -> str:
    """Return a text, cut and marked with an ellipsis where it is too long."""
    return value if len(value) <= longest else value[: longest - 1] + "…"


def visible(value: str) -> str:
    """Return a text with a mark for each character that cannot be seen, line ends included."""
    value = escape_bytes(value)
    return "".join(
        c if c.isprintable() or c in JOINERS else "\N{REPLACEMENT CHARACTER}" for c in value
    )
