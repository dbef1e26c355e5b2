"""Recommends a way, in a sentence that says what it is compared with, and what slows the other ones down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tplaunch.launcher.predicting.foresee import Foreseen
from tplaunch.launcher.predicting.model import Prediction, Rate
from tplaunch.launcher.predicting.seconds import LIMITS

CLOSE = 1.1  # ways that are closer count as alike: predictions are not surer
ALONE = "1 device"


def best(found: Sequence[Prediction], rate: Callable[[Prediction], Rate | None]) -> Prediction:
    """The fastest way; of those that are about as fast the first, which needs the fewest devices."""

    def speed(each: Prediction) -> float:
        known = rate(each)
        return 0.0 if known is None else known.tokens_per_second

    fastest = max(map(speed, found))
    return next(each for each in found if speed(each) * CLOSE >= fastest)


def advice(found: Foreseen) -> str:
    """Returns the recommendation for one text, and where it is another, for several texts and for prefill."""
    fitting = [each for each, lack in zip(found.predictions, found.lacks, strict=True) if not lack]
    if not fitting:
        return "No way fits these hosts: take more devices, or a smaller context."
    chosen = best(fitting, lambda each: each.decode)
    sentences = [_for_one_text(chosen, fitting)]
    others: tuple[tuple[str, Callable[[Prediction], Rate | None]], ...] = (
        (f"For {found.shape.num_sequences} texts together", lambda each: each.together),
        ("For long prompts", lambda each: each.prefill),
    )
    for words, rate in others:
        other = best(fitting, rate)
        if other is not chosen:
            speeds = " against ".join(_speed(rate(each)) for each in (other, chosen))
            sentences.append(f"{words} {other.way.name} is faster: {speeds} tokens/s.")
    return " ".join(sentences)


def _for_one_text(chosen: Prediction, fitting: Sequence[Prediction]) -> str:
    others = [each for each in fitting if each is not chosen]
    if not others:
        return f"Use {chosen.way.name}: there is no other way that fits."
    second = max(others, key=lambda each: each.decode.tokens_per_second)
    speeds = f"{_speed(chosen.decode)} tokens/s against {_speed(second.decode)} of {second.way.name}"
    if chosen.way.name != ALONE:
        return f"Use {chosen.way.name}: {speeds}, which {_slowed(second, chosen)}."
    if second.decode.tokens_per_second > chosen.decode.tokens_per_second:
        return f"Use one device alone: {speeds}, which is not worth a second one."
    return f"One device alone is faster: {speeds}, which {_slowed(second, chosen)}."


def _slowed(found: Prediction, chosen: Prediction) -> str:
    """Says what a way spends the time on that the chosen one does not."""
    seconds = found.decode.seconds
    more = replace(seconds + chosen.decode.seconds * -1, device=0.0)
    if more.total > 0.02 * seconds.total:
        part = getattr(more, more.limit) / seconds.total
        return f"spends {part:.0%} of a token more on {LIMITS[more.limit]}"
    return "has one stage wait for another" if found.way.placement.num_stages > 1 else "has fewer devices"


def _speed(rate: Rate | None) -> str:
    return "?" if rate is None else rate.text
