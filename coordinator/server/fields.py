"""Reads a client's body field by field: each refusal is a sentence that names the field by its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.wanted import GrammarWish
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

# The protocols' own, and those of SamplingParams that tools for local models set most.
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
MAX_SHOWN = 80  # characters of a wrong value that a sentence shows


class Fields:
    """An object of a body. A field that is null counts as one that is not there."""

    def __init__(self, value: object, path: str = "") -> None:
        """path: where the object stands, such as messages[3].content[0]; the body itself has none."""
        if not isinstance(value, Mapping):
            raise refused(path, f"{path or 'the body'} must be an object, not {shown(value)}")
        self.value: Mapping[str, Any] = value
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self.value.get(name) is not None

    def at(self, name: str) -> str:
        """Returns the path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str) -> Any:
        """Returns a field as it came."""
        return self.value.get(name)

    def text(self, name: str) -> str | None:
        """Returns a text, which may be empty."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def needed_text(self, name: str) -> str:
        """Returns a text that must be there and is not empty."""
        value = self.text(name)
        if not value:
            raise self.wrong(name, "a text that is not empty")
        return value

    def flag(self, name: str) -> bool | None:
        """Returns true or false."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def whole(self, name: str, least: int) -> int | None:
        """Returns a whole number."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return int(value)

    def choice(self, name: str, *known: str) -> str | None:
        """Returns one of the words that are known."""
        value = self.get(name)
        if value is not None and value not in known:
            raise self.wrong(name, " or ".join(known))
        return None if value is None else str(value)

    def object(self, name: str) -> Fields | None:
        """Returns an object."""
        value = self.get(name)
        return None if value is None else Fields(value, self.at(name))

    def items(self, name: str) -> list[Any]:
        """Returns a list's items; of a field that is not there, none."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise self.wrong(name, "a list")
        return list(value)

    def objects(self, name: str) -> list[Fields]:
        """Returns a list's objects; of a field that is not there, none."""
        return [Fields(item, f"{self.at(name)}[{place}]") for place, item in enumerate(self.items(name))]

    def check_count(self, name: str, most: int) -> None:
        """Raises ApiError for a list of more items than are taken."""
        count = len(self.items(name))
        if count > most:
            path = self.at(name)
            raise refused(path, f"{path} has {count} entries, and at most {most} are taken")

    def wrong(self, name: str, wanted: str) -> ApiError:
        """Returns the error of a field that is not what is wanted."""
        path = self.at(name)
        value = self.get(name)
        found = "it is missing" if value is None else f"not {shown(value)}"
        return refused(path, f"{path} must be {wanted}{': ' if value is None else ', '}{found}")


def sampling_params(body: Fields, **others: Any) -> SamplingParams:
    """Returns the parameters that a body has, and others. Raises ApiError, which names the field."""
    given = {name: body.get(name) for name in SAMPLING if name in body}
    try:
        return SamplingParams(**given, **others)
    except ValueError as error:
        raise refused(str(error).partition(" ")[0], str(error)) from None


def schema_wish(form: Fields) -> GrammarWish:
    """Returns the wish of an object with a schema."""
    schema = form.object("schema")
    if schema is None:
        raise form.wrong("schema", "a JSON schema")
    return GrammarWish("json_schema", schema.value)


def refused(path: str, sentence: str) -> ApiError:
    """Returns the error of a field with a sentence of its own."""
    return ApiError(400, sentence, parameter=path or None)


def shown(value: object) -> str:
    """Returns a value as a sentence shows it: containers by their kind, and the rest cut."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
