"""Turns errors between this machine and Hugging Face into sentences that say what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import HubModel
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hub.download import BrokenConnectionError, is_of_http_client

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def told(error: Exception, model: HubModel, cache: Path) -> Exception:
    """Returns the error to raise in place of one of the library's or the system's; others as they are.

    A UsageError for what the hub does not have or does not give, a RunError for what failed on the way.
    """
    if isinstance(error, UsageError | RunError):
        return error
    return _of_the_hub(error, model, cache) or _of_the_way(error, cache) or error


def unlike_the_hub() -> RunError:
    """Returns the error for an answer that makes no sense."""
    from huggingface_hub import constants

    return RunError(f"{constants.ENDPOINT} answers unlike Hugging Face; look at HF_ENDPOINT and at proxies")


def _of_the_hub(error: Exception, model: HubModel, cache: Path) -> Exception | None:
    """Translates an answer of the hub; None for other errors."""
    from huggingface_hub import constants, errors, get_token

    hub, repository = constants.ENDPOINT, model.repository
    if isinstance(error, errors.OfflineModeIsEnabled):
        return RunError(f"HF_HUB_OFFLINE is set, and {model.name} is not in the cache {cache}")
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return UsageError(
                f"{repository} is gated: ask for access at {hub}/{repository}, and set HF_TOKEN to your token"
            )
        return UsageError(
            f"{repository} is gated, and your token has no access: ask for it at {hub}/{repository}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "set HF_TOKEN to see private ones" if get_token() is None else "or your token may not see it"
        return UsageError(f"{hub} has no repository {repository}; {hint}")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"-hf {repository}: {' '.join(str(error).split())}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return UsageError(f"{hub} refuses {repository} ({status}): look at HF_TOKEN, it may have expired")
        return RunError(f"{hub} answers with an error ({status}) for {repository}; try again later")
    return None


def _of_the_way(error: Exception, cache: Path) -> Exception | None:
    """Translates errors of the connection and the cache; None for other errors."""
    from huggingface_hub import constants, errors

    cause = (
        error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    )
    if isinstance(cause, BrokenConnectionError):
        return RunError(f"the connection broke too often: {cause}; another try goes on from there")
    if is_of_http_client(cause):
        text = " ".join(str(cause).split()) or type(cause).__name__
        return RunError(f"{constants.ENDPOINT} can't be reached: {text}")
    if isinstance(cause, errors.FileMetadataError):
        return unlike_the_hub()
    if isinstance(cause, OSError) and cause.errno is not None:
        hint = "free some space, or set HF_HOME to another folder; what came is kept"
        if cause.errno not in NO_SPACE:
            hint = "HF_HOME names another folder"
        return RunError(f"the model can't be brought into the cache {cache}: {cause.strerror}; {hint}")
    if isinstance(cause, OSError):
        return RunError(f"the model can't be downloaded: {' '.join(str(cause).split())}")
    return None
