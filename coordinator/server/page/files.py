"""The page's files: read once, served with a tag by which a browser knows that it has them already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing comes from elsewhere or runs from within a text, and no other site shows the page in a frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types tplaunch",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a browser asks by the tag if it still is the same
}


@dataclass(frozen=True)
class File:
    """A file of the page."""

    content: bytes
    kind: str  # its media type
    tag: str  # in quotes, as ETag has it

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each answer that is about the file."""
        return {**HEADERS, "ETag": self.tag}

    def is_known(self, known: str) -> bool:
        """Says if a browser has it; known: what it sends as If-None-Match."""
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        return self.tag in tags or tags == ["*"]


def read_files(folder: Path = FOLDER) -> dict[str, File]:
    """Returns the page's files by their names."""
    return {
        path.name: File(content, KINDS[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        for path in sorted(folder.iterdir())
        if path.suffix in KINDS
        for content in [path.read_bytes()]
    }
