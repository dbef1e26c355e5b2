"""A batch as the server keeps it over restarts, and as OpenAI describes one."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tplaunch.coordinator.server.batches.folder import META, write_whole

ENDED = ("completed", "failed", "expired", "cancelled")
TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@dataclass
class Batch:
    """A batch. output_id, error_id: of the files to which results go, which clients see at the end."""

    model: str
    endpoint: str
    input_file_id: str
    completion_window: str
    expires_at: int
    metadata: dict[str, str] | None
    output_id: str
    error_id: str
    id: str = field(default_factory=lambda: f"batch_{secrets.token_hex(16)}")
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: str = "validating"
    times: dict[str, int] = field(default_factory=dict)  # at which each status began
    total: int = 0  # requests
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)  # for which the whole batch has failed
    output_seconds: int | None = None  # how long the files of results are kept; None for good

    @property
    def has_ended(self) -> bool:
        """Tells whether nothing more is done for it."""
        return self.status in ENDED

    def become(self, status: str) -> None:
        """Goes on to another status, now."""
        self.status = status
        self.times.setdefault(status, int(time.time()))

    def form(self) -> dict[str, Any]:
        """Returns the batch as OpenAI describes one."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{f"{name}_at": self.times.get(name) for name in TIMES},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }

    def write(self, folder: Path) -> None:
        """Keeps the batch as it is now."""
        write_whole(folder / f"{self.id}{META}", asdict(self))


def read_batches(folder: Path) -> dict[str, Batch]:
    """Returns the batches that are kept, by their ids; what was not written here is left alone."""
    found = [_read(path) for path in folder.glob(f"batch_*{META}")]
    batches = sorted((one for one in found if one is not None), key=lambda one: (one.created_at, one.id))
    return {batch.id: batch for batch in batches}


def _read(path: Path) -> Batch | None:
    try:
        batch = Batch(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError, OSError):
        return None
    kinds = {"str": str, "int": int, "dict[str, int]": dict, "list[dict[str, Any]]": list}
    for each in fields(Batch):
        kind = kinds.get(str(each.type))
        if kind is not None and not isinstance(getattr(batch, each.name), kind):
            return None
    return batch if f"{batch.id}{META}" == path.name else None
