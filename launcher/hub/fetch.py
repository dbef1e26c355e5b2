"""A model in a repository of Hugging Face becomes a file here: found, downloaded, or in the cache already.

The cache, the token and the hub's address are those of every other tool (HF_HOME, HF_HUB_CACHE, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE). huggingface_hub is imported where it is needed: it takes a quarter of a second.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import HubModel
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hub.download import bring_file, repository_folder
from tplaunch.launcher.hub.errors import told, unlike_the_hub
from tplaunch.launcher.hub.files import choose_files
from tplaunch.launcher.lines import say
from tplaunch.launcher.progress import show_download

LISTING_SECONDS = 20.0  # for the answer of what is in a repository
MEGABYTE, GIGABYTE = 1000**2, 1000**3


@dataclass(frozen=True)
class Listing:
    """A repository's files at one commit."""

    commit: str | None
    sizes: Mapping[str, int | None]  # bytes by name, where the hub tells them


def fetch(model: HubModel, before_download: Callable[[], None] = lambda: None) -> Path:
    """The path of the model's file; of the first one, with all others beside it, where there are several.

    before_download: called where something is to come; what it raises keeps that from coming.
    Where the hub doesn't answer, a model in the cache is taken as it is. Raises UsageError for what the hub
    does not have or does not give, RunError where it can't be reached or the cache can't be written.
    """
    with _quiet_library():
        from huggingface_hub import constants

        cache = Path(constants.HF_HUB_CACHE)
        if cache.parts[:1] and cache.parts[0].startswith("~"):  # else a folder of that name would be made
            raise UsageError(f"there is no home folder for the cache {cache}; set HF_HOME to a folder")
        try:
            listing = _list_files(model)
        except Exception as error:
            return _fetch_from_cache(model, cache, told(error, model, cache))
        names = choose_files(list(listing.sizes), model)
        present = _cached_files(cache, model.repository, listing.commit)
        if all(name in present for name in names):
            return present[names[0]]
        before_download()
        try:
            return _download(model, {name: listing.sizes[name] for name in names}, cache)
        except Exception as error:
            raise told(error, model, cache) from error


def cache_of(model: HubModel) -> Path | None:
    """Returns the folder of the cache that has files of the model's repository; None where there is none."""
    from huggingface_hub import constants

    folder = repository_folder(Path(constants.HF_HUB_CACHE), model.repository)
    return folder if folder.is_dir() else None


def _list_files(model: HubModel) -> Listing:
    from huggingface_hub import HfApi

    try:
        about = HfApi().model_info(model.repository, files_metadata=True, timeout=LISTING_SECONDS)
        sizes = {str(file.rfilename): file.size for file in about.siblings or ()}
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:  # a page for people, perhaps
        raise unlike_the_hub() from error
    known = {name: size if isinstance(size, int) and size > 0 else None for name, size in sizes.items()}
    return Listing(about.sha, known)


def _fetch_from_cache(model: HubModel, cache: Path, reason: Exception) -> Path:
    """The model as an earlier run left it. Raises the reason why it is not asked for, where there is none."""
    from huggingface_hub import constants

    present = _cached_files(cache, model.repository)
    try:
        names = choose_files(list(present), model)
    except UsageError:
        raise reason from None
    if not constants.HF_HUB_OFFLINE:
        say(f"{reason}; {names[0]} is taken as it is in the cache")
    return present[names[0]]


def _cached_files(cache: Path, repository: str, commit: str | None = None) -> dict[str, Path]:
    """The paths by name of a repository's files that are whole, at a commit or as they were last seen."""
    folder = repository_folder(cache, repository)
    try:
        commit = commit or (folder / "refs" / "main").read_text().strip()
        snapshot = folder / "snapshots" / commit
        return {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    except (OSError, ValueError):
        return {}


def _download(model: HubModel, sizes: Mapping[str, int | None], cache: Path) -> Path:
    """Brings all files into the cache. sizes: bytes by name, in order."""
    num_bytes = sum(size or 0 for size in sizes.values())
    _check_space(cache, model, sizes)
    what = next(iter(sizes)) if len(sizes) == 1 else f"{len(sizes)} files"
    say(f"downloading {what} of {model.repository}, {_amount(num_bytes)}")
    with show_download(num_bytes) as on_bytes:
        paths = [bring_file(model.repository, name, cache, on_bytes) for name in sizes]
    if len({path.parent for path in paths}) > 1:
        raise RunError(f"{model.repository} was changed while it was downloaded; try again")
    return paths[0]


def _check_space(cache: Path, model: HubModel, sizes: Mapping[str, int | None]) -> None:
    """Raises RunError for what the disk can't hold: better now than after an hour."""
    blobs = repository_folder(cache, model.repository) / "blobs"
    held = [(path.name, path.stat().st_size) for path in blobs.iterdir()] if blobs.is_dir() else []
    whole = {size for _, size in held}
    missing = sum(size for size in sizes.values() if size is not None and size not in whole)
    missing -= sum(size for name, size in held if name.endswith(".incomplete"))
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if missing > free:
        raise RunError(
            f"{model.name} needs {_amount(missing)} more in {cache},"
            f" where {_amount(free)} are free; free some space, or set HF_HOME to another folder"
        )


def _amount(num_bytes: int) -> str:
    if num_bytes < GIGABYTE:
        return f"{num_bytes / MEGABYTE:.1f} MB"
    return f"{num_bytes / GIGABYTE:.1f} GB"


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Silences the library: its messages are said here as sentences, or the download is tried again."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
