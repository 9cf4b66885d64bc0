"""Errors that tests expect, in loops over many cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

Error = TypeVar("Error", bound=BaseException)


def error_of(
    expected: type[Error], function: Callable[..., Any], *arguments: Any, **keywords: Any
) -> Error:
    """Call a function and return the error that it raises.

    Fails with the arguments in the message where the function raises nothing.
    """
    try:
        result = function(*arguments, **keywords)
    except expected as error:
        return error
    pytest.fail(f"{function} of {arguments} {keywords} raised no error; it returned {result!r}")
