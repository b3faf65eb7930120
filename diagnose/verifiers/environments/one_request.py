"""What the processes that work with an environment share: one request on stdin, and a refusal on stdout where it cannot be carried out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from posttrain.diagnose.verifiers.environments.opening import unknown_interface
from posttrain.diagnose.verifiers.environments.refusal import EnvironmentRefused
from posttrain.diagnose.verifiers.sandbox.lines import Lines, take_standard_streams


def answer_request(carry_out: Callable[[Any, Lines], None]) -> None:
    """Read one request and have it carried out; whatever is raised becomes the line `{"failed": message, "code": code}`.

    Args:
        carry_out: Takes the request and the lines on which it writes what it finds.
    """
    lines = take_standard_streams()
    logging.disable(logging.CRITICAL)
    request = lines.read()
    assert request is not None
    try:
        carry_out(request, lines)
    except Exception as error:
        refusal = error if isinstance(error, EnvironmentRefused) else unknown_interface(request["name"], error)
        lines.write({"failed": str(refusal), "code": refusal.code})
