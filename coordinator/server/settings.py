"""The options of a server, as the command line declares them, and the limits on what clients may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.options import OptionError, option

LOOPBACK = ("localhost", "127.0.0.1", "::1")
GROUP = "server"


@dataclass(frozen=True)
class ClientLimits:
    """How much one request may ask for. What is more gets a 400 or 413 that names the limit."""

    body_bytes: int = 32 << 20
    prompts: int = 1024  # of one request
    choices: int = 128  # for one prompt
    stops: int = 64
    stop_characters: int = 1024  # of each
    biases: int = 4096  # tokens that logit_bias names
    top_logprobs: int = 100
    tools: int = 1024
    messages: int = 65536


LIMITS = ClientLimits()


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
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

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"--port {self.port}: ports are numbers of 0 to 65535")
        if not all(self.model_names):
            raise OptionError("--model-name needs a name that is not empty")
