"""The options of a server, as the command line declares them, and the limits on what clients may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.options import OptionError, option
from tplaunch.coordinator.server.access import ANY, LOOPBACK_NAMES, Access, digest_of, is_loopback, is_origin

GROUP, SAFETY, ANSWERS = "server", "who may ask", "answers"
KEY_VARIABLE = "TPLAUNCH_API_KEY"
MAX_KEYS_BYTES = 1 << 20  # of a file of keys


@dataclass(frozen=True)
class ClientLimits:
    """How much one request may ask for. What is more gets a 400 or 413 that names the limit."""

    body_bytes: int = 16 << 20
    body_depth: int = 128  # of lists and objects in each other
    # Of lists and objects together. No step goes on while a body is read, and each value of it costs time.
    body_values: int = 1 << 19
    prompts: int = 1024  # of one request
    choices: int = 128  # for one prompt
    texts: int = 2048  # of all prompts: who comes behind waits for all of them
    stops: int = 64
    stop_characters: int = 1024  # of each
    biases: int = 4096  # tokens that logit_bias names
    top_logprobs: int = 20
    tools: int = 1024
    messages: int = 8192


LIMITS = ClientLimits()


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How answers are read, for all commands that serve requests. Raises OptionError."""

    tool_format: str | None = option(
        "--tool-format",
        default=None,
        group=ANSWERS,
        metavar="NAME",
        help="how the model writes calls of tools, such as hermes or none; a wrong name lists all (default:"
        " what its chat template and tokens tell)",
    )

    def __post_init__(self) -> None:
        if self.tool_format is not None:
            from tplaunch.coordinator.text.answers.answer_format import AnswerFormatError, check_name

            try:
                check_name(self.tool_format)
            except AnswerFormatError as error:
                raise OptionError(f"--tool-format {self.tool_format}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class ServerSettings(AnswerSettings):
    """How a server is reached, and by whom. Raises OptionError."""

    host: str = option(
        "--host",
        default="127.0.0.1",
        group=GROUP,
        metavar="ADDRESS",
        help="where to listen; beyond this machine it needs keys, or --no-auth (default: %(default)s)",
    )
    port: int = option(
        "--port",
        default=8000,
        group=GROUP,
        number=int,
        metavar="N",
        help="0 for a free one, which the first line on standard error names (default: %(default)s)",
    )
    model_names: tuple[str, ...] = option(
        "--model-name",
        default=(),
        group=GROUP,
        metavar="NAME",
        read=tuple,
        is_repeated=True,
        help="by which clients ask for the model; may stand several times, the first is what answers say"
        " (default: the file's)",
    )
    ledger: bool = option(
        "--ledger",
        default=False,
        group=GROUP,
        help="devices note when they compute, which the page at / then shows apart (costs a little)",
    )
    max_queue: int = option(
        "--max-queue",
        default=1024,
        group=GROUP,
        number=int,
        metavar="N",
        help="requests that are computed or wait; more are told to come back (default: %(default)s)",
    )
    max_connections: int = option(
        "--max-connections",
        default=2048,
        group=GROUP,
        number=int,
        metavar="N",
        help="clients at a time (default: %(default)s)",
    )
    files_dir: str | None = option(
        "--files-dir",
        default=None,
        group=GROUP,
        metavar="FOLDER",
        help="where files and batches of clients are kept, also over restarts (default: tplaunch/files/MODEL"
        " in $XDG_STATE_HOME or ~/.local/state)",
    )
    max_files_bytes: str = option(
        "--max-files-bytes",
        default="1GiB",
        group=GROUP,
        metavar="SIZE",
        help="of all files of clients and batches; more are refused (default: %(default)s)",
    )
    drain_seconds: float = option(
        "--drain-seconds",
        default=30.0,
        group=GROUP,
        number=float,
        metavar="SECONDS",
        help="how long requests may go on after SIGTERM; a second one ends them (default: %(default)s)",
    )
    add_bos: bool = option(
        "--add-bos",
        default=False,
        group=GROUP,
        help="put the begin token before prompts of token ids that lack it, as before texts; for"
        " lm-evaluation-harness, whose token ids never have it",
    )
    api_keys: tuple[str, ...] = option(
        "--api-key",
        default=(),
        group=SAFETY,
        metavar="KEY",
        read=tuple,
        is_repeated=True,
        help="clients need one of these; may stand several times. Others can read the command line:"
        f" {KEY_VARIABLE} and --api-key-file hide it",
    )
    api_key_file: str | None = option(
        "--api-key-file", default=None, group=SAFETY, metavar="FILE", help="keys, one a line"
    )
    no_auth: bool = option(
        "--no-auth", default=False, group=SAFETY, help="whoever reaches the server may use it"
    )
    trusts_templates: bool = option(
        "--trust-request-chat-template",
        default=False,
        group=SAFETY,
        help="clients may send chat templates, which are programs that may keep this machine busy",
    )
    host_names: tuple[str, ...] = option(
        "--host-name",
        default=(),
        group=SAFETY,
        metavar="NAME",
        read=tuple,
        is_repeated=True,
        help="another name by which clients call this server; may stand several times (default: localhost"
        " and its addresses, and any name beyond this machine)",
    )
    cors_origins: tuple[str, ...] = option(
        "--cors-origin",
        default=(),
        group=SAFETY,
        metavar="URL",
        read=tuple,
        is_repeated=True,
        help="a site whose pages may ask, such as https://chat.example; * for all; may stand several times",
    )
    ssl_certfile: str | None = option(
        "--ssl-certfile",
        default=None,
        group=SAFETY,
        metavar="FILE",
        help="a certificate: the server speaks https",
    )
    ssl_keyfile: str | None = option(
        "--ssl-keyfile", default=None, group=SAFETY, metavar="FILE", help="the certificate's key"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise OptionError(f"--port {self.port}: ports are numbers of 0 to 65535")
        for flag, number in (("--max-queue", self.max_queue), ("--max-connections", self.max_connections)):
            if number < 1:
                raise OptionError(f"{flag} {number}: at least 1 is needed")
        if not 0 <= self.drain_seconds < 1e6:
            raise OptionError(f"--drain-seconds {self.drain_seconds}: 0 or more seconds are needed")
        lists = {
            "--model-name": self.model_names,
            "--api-key": self.api_keys,
            "--host-name": self.host_names,
            "--cors-origin": self.cors_origins,
        }
        for flag, values in lists.items():
            if not all(value.strip() for value in values):
                raise OptionError(f"{flag} is empty: perhaps a variable of the shell that is not set")
        wrong = next((origin for origin in self.cors_origins if not is_origin(origin)), None)
        if wrong is not None:
            raise OptionError(f"--cors-origin {wrong}: such as https://chat.example is needed, or * for all")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise OptionError("--ssl-keyfile needs --ssl-certfile")

    @property
    def is_loopback(self) -> bool:
        """Tells whether the server can be reached from this machine alone."""
        return is_loopback(self.host)

    @property
    def certificate(self) -> tuple[Path, Path | None] | None:
        """The certificate's file and its key's, for https."""
        if self.ssl_certfile is None:
            return None
        return Path(self.ssl_certfile), None if self.ssl_keyfile is None else Path(self.ssl_keyfile)

    def access(self, environment: Mapping[str, str]) -> Access:
        """Returns who may ask. Raises OptionError where all could without being meant to."""
        keys = [*self.api_keys, *_keys_of(self.api_key_file)]
        if environment.get(KEY_VARIABLE, "").strip():
            keys.append(environment[KEY_VARIABLE].strip())
        if keys and self.no_auth:
            raise OptionError("--no-auth and a key contradict each other; give one of them")
        if not (keys or self.no_auth or self.is_loopback):
            raise OptionError(
                f"--host {self.host} lets other machines ask: give --api-key-file FILE or {KEY_VARIABLE}, or"
                " --no-auth if all may"
            )
        given = {name.lower().rstrip(".") for name in self.host_names}
        names = frozenset({*LOOPBACK_NAMES, self.host.lower(), *given}) if self.is_loopback or given else None
        if ANY in given:
            names = None
        origins = tuple(origin.rstrip("/").lower() for origin in self.cors_origins)
        return Access(tuple(map(digest_of, keys)), names, origins)


def _keys_of(path: str | None) -> list[str]:
    """The lines of a file, but for empty ones and remarks behind #. Raises OptionError."""
    if path is None:
        return []
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_KEYS_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise OptionError(f"--api-key-file {path}: {reason}") from error
    if len(content) > MAX_KEYS_BYTES:
        raise OptionError(f"--api-key-file {path} has more than 1 MiB: that is no list of keys")
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise OptionError(f"--api-key-file {path} has no key in it")
    return keys
