"""Sampling by its definitions, slow and plain: what the tests of sampling compare with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

Logits = dict[int, float]  # of the tokens that are left


def likeliest_first(logits: Logits) -> list[int]:
    return sorted(logits, key=lambda token: (-logits[token], token))


def softmax(logits: Logits) -> dict[int, float]:
    """Token -> probability, the likeliest first."""
    peak = max(logits.values())
    weights = {token: math.exp(logits[token] - peak) for token in likeliest_first(logits)}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def kept(logits: Logits, tokens: list[int]) -> Logits:
    return {token: logits[token] for token in tokens}


def top_k(logits: Logits, params: SamplingParams) -> Logits:
    return kept(logits, likeliest_first(logits)[: params.top_k or None])


def top_p(logits: Logits, params: SamplingParams) -> Logits:
    if params.top_p >= 1:
        return logits
    tokens, reached = [], 0.0
    for token, probability in softmax(logits).items():
        tokens.append(token)
        reached += probability
        if reached >= params.top_p:
            break
    return kept(logits, tokens)


def min_p(logits: Logits, params: SamplingParams) -> Logits:
    probabilities = softmax(logits)
    bound = params.min_p * max(probabilities.values())
    return kept(logits, [token for token, probability in probabilities.items() if probability >= bound])


def typical_p(logits: Logits, params: SamplingParams) -> Logits:
    if params.typical_p >= 1:
        return logits
    probabilities = softmax(logits)
    entropy = -sum(p * math.log(p) for p in probabilities.values() if p)
    by_distance = sorted(
        probabilities, key=lambda token: abs(-math.log(probabilities[token] or 1e-320) - entropy)
    )
    tokens, reached = [], 0.0
    for token in by_distance:
        tokens.append(token)
        reached += probabilities[token]
        if reached > params.typical_p:
            break
    return kept(logits, tokens)


def top_n_sigma(logits: Logits, params: SamplingParams) -> Logits:
    if params.top_n_sigma <= 0:
        return logits
    mean = sum(logits.values()) / len(logits)
    sigma = math.sqrt(sum((logit - mean) ** 2 for logit in logits.values()) / len(logits))
    bound = max(logits.values()) - params.top_n_sigma * sigma
    return {token: logit for token, logit in logits.items() if logit >= bound}


def xtc(logits: Logits, params: SamplingParams) -> Logits:
    """As if it struck."""
    if params.xtc_threshold > 0.5:
        return logits
    probabilities = softmax(logits)
    top = [token for token, probability in probabilities.items() if probability >= params.xtc_threshold]
    return kept(logits, [token for token in probabilities if token not in top[:-1]])


def temperature(logits: Logits, params: SamplingParams) -> Logits:
    return {token: logit / params.temperature for token, logit in logits.items()}


def penalties(logits: Logits, params: SamplingParams, text: list[int]) -> Logits:
    seen = text if params.repeat_last_n < 0 else text[max(0, len(text) - params.repeat_last_n) :]
    found = dict(logits)
    for token, count in Counter(seen).items():
        if token in found:
            logit, factor = found[token], params.repetition_penalty
            repeated = logit / factor if logit > 0 else logit * factor
            lowered = params.presence_penalty + count * params.frequency_penalty
            found[token] = repeated - lowered
    return found


def dry(logits: Logits, params: SamplingParams, text: list[int], pieces: Mapping[int, bytes]) -> Logits:
    """pieces: each token's text."""
    last_n = params.dry_penalty_last_n
    text = text if last_n < 0 else text[max(0, len(text) - last_n) :]
    found = dict(logits)
    for token in logits:
        if any(breaker.encode() in pieces.get(token, b"") for breaker in params.dry_sequence_breakers):
            continue
        longest = max((_repeated(text, end, params, pieces) for end in _before(text, token)), default=0)
        if longest >= params.dry_allowed_length:
            exponent = min(
                longest - params.dry_allowed_length, math.floor(88.7228391 / math.log(params.dry_base))
            )
            found[token] -= params.dry_multiplier * params.dry_base**exponent
    return found


def _before(text: list[int], token: int) -> list[int]:
    """Counts the tokens before each time that the token does."""
    return [place for place, found in enumerate(text) if found == token]


def _repeated(text: list[int], end: int, params: SamplingParams, pieces: Mapping[int, bytes]) -> int:
    """Counts the tokens before `end` that are the text's last ones, none of them the end of a breaker."""
    length = 0
    while length < end and text[end - 1 - length] == text[len(text) - 1 - length]:
        place = len(text) - 1 - length
        joined = b"".join(pieces.get(token, b"") for token in text[: place + 1])
        last = len(pieces.get(text[place], b""))
        if any(
            joined.find(breaker.encode(), max(0, len(joined) - last - len(breaker.encode()) + 1)) >= 0
            for breaker in params.dry_sequence_breakers
        ):
            break
        length += 1
    return length
