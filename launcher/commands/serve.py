"""`tplaunch serve`: answers programs over HTTP."""

from __future__ import annotations

import asyncio
import signal
import sys

from tplaunch.coordinator.server.settings import ServerSettings
from tplaunch.launcher import signals
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.lines import say
from tplaunch.launcher.serving_model import model_names, open_for_many

SWITCH_SECONDS = 0.0005  # how long the event loop may keep the driver's thread waiting, and the reverse


def serve(config: RunConfig, settings: ServerSettings, chose_parallel: bool) -> int:
    """Serves until a signal comes. Raises UsageError, RunError and the like before requests are taken."""
    from tplaunch.coordinator.server.app import make_app
    from tplaunch.coordinator.server.listening import HttpServer, ListenError, listen, url_of

    assert not isinstance(config.model, RandomModel), "the command line takes files only"
    names = [*settings.model_names, *model_names(config.model)]
    try:
        bound = listen(settings.host, settings.port)  # before minutes of loading
    except ListenError as error:
        raise UsageError(str(error)) from error
    with bound, open_for_many(config, chose_parallel=chose_parallel) as loaded:
        app = make_app(loaded.opened, names)
        server = HttpServer(app, lambda: say(f"listening on {url_of(bound)}"))
        came: list[int] = []

        def take(number: int) -> None:
            came.append(number)
            server.should_exit = True
            server.force_exit = len(came) > 1

        sys.setswitchinterval(SWITCH_SECONDS)
        with signals.taken(take):
            asyncio.run(server.serve_on(bound))
        if came and came[0] != signal.SIGTERM:
            signals.end_by(came[0])
    return 0
