"""Who may ask a server: keys, the names by which it is called, and the sites whose pages may use it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
ANY = "*"
ORIGIN = re.compile(r"null|[A-Za-z][\w+.-]*://[^\s/?#]+/?")
# For these nobody needs a key: who looks after the server, and the page's own files, which ask for it.
OPEN_PATHS = re.compile(r"/|/health|/favicon\.ico|/page/[\w-]+\.\w+")


def is_loopback(host: str) -> bool:
    """Tells whether what listens there can be reached from this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """Tells whether browsers may name a page's site so, like https://chat.example, or it is for all."""
    return text == ANY or ORIGIN.fullmatch(text) is not None


@dataclass(frozen=True)
class Access:
    """The rules of a server."""

    keys: tuple[bytes, ...] = ()  # digests; without any nobody needs a key
    names: frozenset[str] | None = None  # that Host headers may have, in small letters; None for any
    origins: tuple[str, ...] = ()  # of other sites whose pages may ask; * for all

    def has_key(self, authorization: str, plain: str) -> bool:
        """Tells whether a client may ask. All keys are compared, in a time that tells nothing of them.

        authorization, plain: the headers Authorization, as Bearer KEY, and x-api-key.
        """
        scheme, _, bearer = authorization.partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else plain
        digest = hashlib.sha256(given.encode("latin-1", "replace")).digest()  # as headers were decoded
        found = [hmac.compare_digest(digest, key) for key in self.keys]
        return any(found) or not self.keys

    def knows_name(self, host: str) -> bool:
        """Tells whether a Host header names this server, and not a site whose name leads here by a trick."""
        return self.names is None or _name_of(host) in self.names

    def allows_origin(self, origin: str, host: str) -> bool:
        """Tells whether a page of this origin may ask: one of this server's own, or of a site that is named.

        host: the Host header of the same request.
        """
        if ANY in self.origins or origin in self.origins:
            return True
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()


def digest_of(key: str) -> bytes:
    """Returns what is kept of a key: of one length for all."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _name_of(host: str) -> str:
    """Returns a Host header without its port, in small letters."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([^:\[\]]*)(?::\d+)?", host.strip())
    return (found[1] or found[2] or "").lower().rstrip(".") if found else ""
