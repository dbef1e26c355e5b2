"""Makes SamplingParams of the fields of a body, within the server's limits."""

from __future__ import annotations

import re
from typing import Any

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.fields import CommonFields, SamplingFields
from tplaunch.coordinator.server.settings import ClientLimits
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams


def sampling_params(fields: CommonFields, limits: ClientLimits, **others: Any) -> SamplingParams:
    """Returns the parameters that a body asks for; those of `others` come before its own. Raises ApiError."""
    given = {name: getattr(fields, name) for name in SamplingFields.model_fields}
    if fields.repeat_penalty is not None and fields.repetition_penalty is None:
        given["repetition_penalty"] = fields.repeat_penalty
    check_limits(fields, limits)
    values = {**{name: value for name, value in given.items() if value is not None}, **others}
    try:
        return SamplingParams(**values)
    except ValueError as error:
        name = re.match(r"\w+", str(error))
        raise ApiError(400, str(error), parameter=name[0] if name else None) from None


def check_limits(fields: CommonFields, limits: ClientLimits) -> None:
    """Raises ApiError where a body asks for more than the server gives."""
    stops = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    counts = (
        ("n", fields.n or 1, limits.choices, "choices"),
        ("stop", len(stops), limits.stops, "texts"),
        ("stop", max(map(len, stops), default=0), limits.stop_characters, "characters in a text"),
        ("stop_token_ids", len(fields.stop_token_ids or ()), limits.biases, "tokens"),
        ("logit_bias", len(fields.logit_bias or ()), limits.biases, "tokens"),
        ("bad_token_ids", len(fields.bad_token_ids or ()), limits.biases, "tokens"),
        ("dry_sequence_breakers", len(fields.dry_sequence_breakers or ()), limits.stops, "texts"),
    )
    for name, given, most, what in counts:
        if given > most:
            raise ApiError(400, f"{name} has {given} {what}, and at most {most} are taken", parameter=name)


def checked_top(name: str, count: int, limits: ClientLimits) -> int:
    """Returns a number of likeliest tokens. Raises ApiError where it can't be."""
    if not 0 <= count <= limits.top_logprobs:
        raise ApiError(
            400, f"{name} must be between 0 and {limits.top_logprobs}, not {count}", parameter=name
        )
    return count
