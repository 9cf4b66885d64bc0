"""Times of a schedule are Kubeflow's six fields; what people write with five is refused."""

from __future__ import annotations

import pytest
from c3d_client.core.errors import UsageError
from c3d_pipelines.kubeflow.submit import check_cron


@pytest.mark.parametrize(
    "text",
    [
        "0 0 2 * * *",
        "0 30 1-5 ? * MON-FRI",
        "*/10 0,30 */2 1,15 JAN,jul sun",
        "0 0/15 9-17/2 31 12 0-6",
        "@daily",
        "@every 1h30m",
    ],
)
def test_six_fields_are_taken(text):
    assert check_cron(text) == text
    assert check_cron(f"  {text.replace(' ', '   ')}\t") == text


def test_five_fields_are_refused_with_the_sixth():
    with pytest.raises(UsageError, match=r"five fields; .* seconds first: '0 0 2 \* \* \*'$"):
        check_cron("0 2 * * *")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give six fields: seconds, minutes"),
        ("0 0 2 * * * 2030", "give six fields: seconds, minutes"),
        ("60 0 2 * * *", "'60' is not for seconds; give 0 to 59"),
        ("0 60 2 * * *", "'60' is not for minutes; give 0 to 59"),
        ("0 0 24 * * *", "'24' is not for hours; give 0 to 23"),
        ("0 0 2 0 * *", "'0' is not for days of the month; give 1 to 31"),
        ("0 0 2 * 13 *", "'13' is not for months; give 1 to 12, jan to dec"),
        ("0 0 2 * * 7", "'7' is not for days of the week; give 0 to 6, sun to sat"),
        ("0 0 2 * * mon,", "'mon,' is not for days"),
        ("0 5-1 2 * * *", "'5-1' is not for minutes"),
        ("0 */0 2 * * *", "'*/0' is not for minutes"),
        ("0 1-2-3 2 * * *", "'1-2-3' is not for minutes"),
        ("0 -1 2 * * *", "'-1' is not for minutes"),
        ("0 two 2 * * *", "'two' is not for minutes"),
        ("0 ٣ 2 * * *", "'٣' is not for minutes"),
        ("@noon", "give six fields, or @yearly"),
        ("@every day", "give six fields, or @yearly"),
    ],
)
def test_what_is_no_time_is_refused(text, said):
    with pytest.raises(UsageError) as failed:
        check_cron(text)
    assert said in str(failed.value)
