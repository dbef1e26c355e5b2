"""`tplaunch serve`: answers programs over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tplaunch.coordinator.server.settings import ServerSettings
from tplaunch.launcher import signals
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.lines import say
from tplaunch.launcher.serving_model import model_names, open_for_many
from tplaunch.launcher.sizes import parse_size
from tplaunch.worker.folders import user_folder

if TYPE_CHECKING:
    from tplaunch.coordinator.server.batches.folder import Folder
    from tplaunch.coordinator.server.ends import Ends
    from tplaunch.coordinator.server.listening import HttpServer
    from tplaunch.coordinator.serving.driver import Driver

HEALTH_SECONDS = 1.0  # between two looks at whether anything is computed still
MAX_NAME = 100  # characters of a model's name that are those of its folder
SWITCH_SECONDS = 0.0005  # how long the event loop may keep the driver's thread waiting, and the reverse


def serve(config: RunConfig, settings: ServerSettings, chose_parallel: bool) -> int:
    """Serves until a signal comes. Raises UsageError, RunError and the like before requests are taken.

    SIGTERM lets requests that run go on for a while, and a second signal ends them; so does any other one,
    such as Ctrl-C. The exit code is 0 where nothing was cut off.
    """
    from tplaunch.coordinator.server.app import make_app
    from tplaunch.coordinator.server.listening import (
        HttpServer,
        ListenError,
        check_certificate,
        listen,
        url_of,
    )

    assert not isinstance(config.model, RandomModel), "the command line takes files only"
    names = [*settings.model_names, *model_names(config.model)]
    access = settings.access(os.environ)
    certificate = settings.certificate
    folder = _folder(settings, names[0])
    try:  # before minutes of loading
        if certificate is not None:
            check_certificate(*certificate)
        bound = listen(settings.host, settings.port)
    except ListenError as error:
        raise UsageError(str(error)) from error
    measured = replace(config, timestamps=settings.ledger)
    with (
        bound,
        nullcontext() if folder is None else closing(folder),
        open_for_many(measured, chose_parallel=chose_parallel) as loaded,
    ):
        app = make_app(
            loaded.opened,
            names,
            access=access,
            max_open=settings.max_queue,
            trusts_templates=settings.trusts_templates,
            begins_tokens=settings.add_bos,
            folder=folder,
            tool_format=settings.tool_format,
        )
        url = url_of(bound, is_secure=certificate is not None)
        server = HttpServer(
            app,
            lambda: say(f"listening on {url}"),
            max_connections=settings.max_connections,
            certificate=certificate,
        )
        sys.setswitchinterval(SWITCH_SECONDS)
        _serve_until_signalled(server, app.state.ends, bound, settings.drain_seconds, loaded.opened.driver)
    return 0


def _folder(settings: ServerSettings, model: str) -> Folder | None:
    """Opens the folder for files and batches; None where the usual one can't be had. Raises UsageError."""
    from tplaunch.coordinator.server.batches.folder import Folder, FolderError

    try:
        max_bytes = parse_size(settings.max_files_bytes)
    except ValueError as error:
        raise UsageError(f"--max-files-bytes: {error}; such as 1GiB is needed") from error
    if settings.files_dir is not None:
        try:
            return Folder(Path(settings.files_dir), max_bytes)
        except (FolderError, ValueError) as error:  # a name with a zero byte
            raise UsageError(f"--files-dir: {error}") from error
    state = user_folder("XDG_STATE_HOME", ".local/state")
    if state is None:
        say("files and batches are refused: there is no home folder to keep them in; --files-dir names one")
        return None
    name = re.sub(r"[^\w.-]|^\.+", "_", model)[:MAX_NAME]
    try:
        return Folder(state / "tplaunch" / "files" / name, max_bytes)
    except FolderError as error:
        say(f"files and batches are refused: {error}; --files-dir names another folder")
        return None


def _serve_until_signalled(
    server: HttpServer, ends: Ends, bound: socket.socket, drain_seconds: float, driver: Driver
) -> None:
    """Raises Signalled where requests were cut off, or the signal was no SIGTERM."""
    came: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def take(number: int) -> None:
            came.append(number)
            is_first_term = came == [signal.SIGTERM]
            loop.call_soon_threadsafe(ends.drain if is_first_term else ends.stop)

        telling = asyncio.create_task(_tell_of_end(driver))
        with signals.taken(take):
            await server.serve_on(bound, drain_seconds)
        telling.cancel()

    asyncio.run(run())
    if came and (came[0] != signal.SIGTERM or ends.was_cut):
        signals.end_by(came[0])


async def _tell_of_end(driver: Driver) -> None:
    """Says once on the terminal why nothing is computed any more; clients are told by /health and errors."""
    while (health := driver.health()).state != "ended":
        await asyncio.sleep(HEALTH_SECONDS)
    say(f"{health.reason}; all requests are refused now, and /health is red: start the server again")
