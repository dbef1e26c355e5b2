"""Keeps responses in memory, so that conversations can go on from them; the longest unused goes first."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.server.errors import ApiError

Item = Mapping[str, Any]

MAX_COUNT = 1000
MAX_BYTES = 64 << 20  # of all conversations together, written as JSON; each counts as a whole


@dataclass(frozen=True)
class Kept:
    """A response, and the items of its whole conversation, of which its own output is the end."""

    response: Mapping[str, Any]
    items: Sequence[Item]
    num_bytes: int


class Store:
    """The responses that are kept. They share the items of a conversation that they have in common."""

    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._outputs: dict[str, Item] = {}  # the items that the model has written, by their ids
        self._num_bytes = 0

    def keep(self, response: Mapping[str, Any], items: Sequence[Item]) -> None:
        """Keeps a response. items: of the conversation before its output."""
        assert response["id"] not in self._kept
        output = response["output"]
        size = len(json.dumps([*items, response], ensure_ascii=False).encode(errors="surrogatepass"))
        if size > self._max_bytes:
            return
        self._kept[response["id"]] = Kept(response, [*items, *output], size)
        self._outputs.update({item["id"]: item for item in output})
        self._num_bytes += size
        while len(self._kept) > self._max_count or self._num_bytes > self._max_bytes:
            self.forget(next(iter(self._kept)))

    def response(self, id: str) -> Mapping[str, Any]:
        """Raises ApiError where it is not kept."""
        return self._found(id).response

    def forget(self, id: str) -> None:
        """Raises ApiError where it is not kept."""
        kept = self._found(id)
        del self._kept[id]
        self._num_bytes -= kept.num_bytes
        for item in kept.response["output"]:
            self._outputs.pop(item["id"], None)

    def before(self, id: str | None) -> Sequence[Item]:
        """Returns the items of the conversation that goes on; none without an id. Raises ApiError."""
        return () if id is None else self._found(id, "previous_response_id").items

    def resolved(self, items: Sequence[Item]) -> list[Item]:
        """Puts items in the place of references to them. Raises ApiError."""
        return [self._item(item) if item.get("type") == "item_reference" else item for item in items]

    def _item(self, reference: Item) -> Item:
        id = reference.get("id")
        found = self._outputs.get(id) if isinstance(id, str) else None
        if found is None:
            raise ApiError(404, f"no item with the id {id!r:.80} is kept here", parameter="input")
        return found

    def _found(self, id: str, parameter: str | None = None) -> Kept:
        if id not in self._kept:
            sentence = (
                f"no response with the id {id!r:.80} is kept here: the last {self._max_count} are, but for "
                "those with store false and very long ones; send the whole conversation as input"
            )
            raise ApiError(404, sentence, parameter=parameter)
        self._kept.move_to_end(id)
        return self._kept[id]
