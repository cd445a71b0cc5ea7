"""Models of the Hugging Face hub: which names mean one, and the copy of it in `huggingface_hub`'s cache."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from potstill.errors import ArtifactError, MissingExtraError, SourceError
from potstill.predict.directory import LABELS_FILE, StudentFiles, require_student
from potstill.store.checksums import CHECKSUMS_FILE, listed_files, verify

CARD_FILE: Final = "README.md"
"""What the hub shows of a repository."""
_PART: Final = r"\w(?:[\w.-]{0,94}\w)?"
_NAME: Final = re.compile(
    rf"(?P<repository>(?!.*(?:--|\.\.|\.git$)){_PART}/{_PART})(?:@(?P<revision>\w[\w./-]{{0,200}}))?", re.ASCII
)
_FILES: Final = (CHECKSUMS_FILE, LABELS_FILE, *(file.name for file in StudentFiles(Path()).needed))
"""All that is read of a repository, whatever else it holds."""
_DISK_ERRORS: Final = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EIO, errno.EEXIST, errno.ENOTDIR),
}
"""The system's numbers of errors that come from a disk, never from a network."""
_SILENT_S: Final = 1.0
"""How long loading may take before a progress bar appears."""
LOG_IN: Final = "set HF_TOKEN, or log in with `hf auth login`"


class HubName(NamedTuple):
    """A model's repository, `owner/name`, and a branch, tag or commit of it; None: the repository's main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubName | None:
        """Read `owner/name` or `owner/name@revision`; None where it is neither."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(**found.groupdict())

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def meant_for_hub(name: str) -> HubName | None:
    """Return the model of the hub that a name means; None: it is a path, since it exists or is no `owner/name`.

    Raises:
        ArtifactError: It is a misspelt path: it does not exist, but the directory that it would be in.
    """
    found = HubName.parse(name)
    if found is None or Path(name).exists():
        return None
    if found.revision is None and Path(name).parent.is_dir():
        raise ArtifactError(
            f"{name}: expected a directory, found none\n"
            f"  what to do: check the path; if you mean a model of the Hugging Face hub, write {name}@main"
        )
    return found


def local_model(model: Path | str, revision: str | None = None) -> Path:
    """Return a model's directory: the path itself, or a copy of what the hub has by that name, `owner/name`.

    Only what a student needs to predict is downloaded, and what is in the cache already is not loaded again. The copy
    is compared with its checksums; a damaged one is downloaded once more.

    Args:
        model: A path, or a name of the hub, `owner/name` or `owner/name@revision`. A `Path` is never a name.
        revision: Branch, tag or commit of the hub's model.

    Raises:
        SourceError: The hub can't be reached, or does not give the model, or there is no room for it.
        ArtifactError: What it gives is damaged, or no student; or the name is a misspelt path.
        ValueError: There is a revision for a path, or there are two.
    """
    name = None
    if isinstance(model, str):
        name = meant_for_hub(model if revision is None or Path(model).exists() else f"{model}@{revision}")
    if name is None:
        if revision is not None:
            raise ValueError(f"revision: expected a model of the hub (owner/name) with it, found {str(model)!r}")
        return Path(model)
    directory = _download(name)
    try:
        _check(directory)
    except ArtifactError:
        directory = _download(name, force_download=True)  # the library itself takes a damaged file of its cache
        try:
            _check(directory)
        except ArtifactError as error:
            raise ArtifactError(
                f"{name}: what the hub has is no student, or damaged: {str(error).splitlines()[0]}\n"
                "  what to do: check the name; its owner can upload it again with `potstill push`"
            ) from None
    return directory


def hub_name(directory: Path) -> HubName | None:
    """Name the model of the hub, and its commit, that a directory is the copy of; None: it is no copy."""
    match directory.parts[-3:]:
        case (repository, "snapshots", commit) if repository.startswith("models--"):
            return HubName(repository.removeprefix("models--").replace("--", "/"), commit[:7])
    return None


def hub_library() -> Any:
    """Import `huggingface_hub`, which only models of the hub need."""
    try:
        return import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "") from None


def hub_error(error: Exception, name: HubName, what: str) -> SourceError:
    """Explain an error of `huggingface_hub` or of its HTTP library, which share no base class.

    Args:
        error: The error.
        name: The repository that was asked for.
        what: What was wanted, as in "does not give".
    """
    if (number := next(filter(None, map(_disk_error, _causes(error))), None)) is not None:
        where = next((file for one in _causes(error) if (file := getattr(one, "filename", None))), None)
        place = "" if where is None else f" ({where})"
        return SourceError(
            f"{name}: {os.strerror(number)}{place}\n"
            f"  what to do: make room, or set HF_HOME to a directory that can be written"
        )
    endpoint = hub_library().constants.ENDPOINT
    answers = [answer for one in _causes(error) if (answer := getattr(one, "response", None)) is not None]
    status = answers[0].status_code if answers else None
    lines = [getattr(error, "server_message", None) or "", *str(error).splitlines(), type(error).__name__]
    said = next(line.strip() for line in lines if line.strip())
    remedy = {
        None: "check the network, HF_ENDPOINT and HF_HUB_OFFLINE",
        400: "change what it names",
        401: f"check the name; to upload a model, or to load a private one, {LOG_IN}",
        403: f"use a token that may do this, or accept the model's conditions at {endpoint}/{name.repository}",
        404: "check the name and the revision",
    }.get(status, "try again later")
    found = said if status is None else f"it answered {status}: {said}"
    return SourceError(f"{name}: {endpoint} {what}: {found}\n  what to do: {remedy}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _disk_error(error: BaseException) -> int | None:
    """Return the system's number of an error where a disk is its cause; hf_xet gives it in words alone."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])
    return number if number in _DISK_ERRORS else None


def _progress(library: Any) -> Any:
    """Make the library's progress bar one that only a terminal shows, where loading takes long."""
    started = time.monotonic()

    class Progress(library.utils.tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            settings["disable"] = settings.get("disable") or not sys.stderr.isatty()
            super().__init__(*arguments, **settings | {"leave": False})

        def display(self, *arguments: Any, **settings: Any) -> Any:
            return time.monotonic() - started > _SILENT_S and super().display(*arguments, **settings)

    return Progress


def _download(name: HubName, *, force_download: bool = False) -> Path:
    library = hub_library()
    try:
        directory = library.snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=[*_FILES],
            force_download=force_download,
            tqdm_class=_progress(library),
        )
    except Exception as error:
        raise hub_error(error, name, "does not give it") from error
    return Path(directory)


def _check(directory: Path) -> None:
    require_student(directory)
    verify(directory, [file for file in listed_files(directory) if file in _FILES])
