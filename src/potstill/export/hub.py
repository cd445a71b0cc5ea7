"""Students for the Hugging Face hub: exported into a repository, with the card as the page that it shows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml
from huggingface_hub import CardData, HfApi, ModelCard, constants, get_token

from potstill.errors import ArtifactError, SourceError
from potstill.export.bundle import CARD_NAME, export_student
from potstill.export.card import LIBRARY, PIPELINE, placed
from potstill.predict.directory import is_exported, require_graph
from potstill.predict.hub import CARD_FILE, LOG_IN, HubName, hub_error
from potstill.store.atomic import write_text
from potstill.store.checksums import read, verify, write_checksums

_DEFAULTS: Final = {"library_name": LIBRARY, "pipeline_tag": PIPELINE, "tags": [LIBRARY, "onnx"]}
"""The header of a card that has none, such as one of an earlier version or of a user's own."""


def push_student(
    student: Path,
    name: HubName,
    announce: Callable[[str, list[Path]], None],
    *,
    private: bool = False,
    licence: str | None = None,
    language: str | None = None,
) -> str:
    """Upload a saved or exported student as a repository of the hub, which is made where there is none.

    Args:
        student: Its directory; what is no export yet is exported as `potstill export` does.
        name: Where to: the repository and, if it is not to be the main one, a branch.
        announce: Is told where to, and which files, before anything is sent.
        private: Whether a new repository is for its owner alone.
        licence: The licence that the card's header names, as the hub abbreviates it; none: as the card says.
        language: Likewise the language of the texts.

    Returns:
        The URL of the model.

    Raises:
        ArtifactError: The student is incomplete or damaged, or was exported without the graph that predicts.
        SourceError: There is no token, or the hub can't be reached or refuses.
    """
    if get_token() is None:  # before anything is exported
        raise SourceError(f"{name}: expected a token for {constants.ENDPOINT}, found none\n  what to do: {LOG_IN}")
    url = f"{constants.ENDPOINT}/{name.repository}" + ("" if name.revision is None else f"/tree/{name.revision}")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary, "model")
        if is_exported(student):
            _copy(student, directory)
        else:
            export_student(student, directory, "onnx")
        card = _card(directory, name, licence, language)
        new = "is private" if private else "is public, unless its owner has set otherwise"
        announce(f"{url} (a new repository {new})", sorted(directory.iterdir()))
        try:
            card.validate()
            api = HfApi()
            api.create_repo(name.repository, private=private or None, exist_ok=True)
            if name.revision is not None:
                api.create_branch(name.repository, branch=name.revision, exist_ok=True)
            api.upload_folder(
                repo_id=name.repository,
                folder_path=directory,
                revision=name.revision,
                commit_message="Upload a student with Potstill",
            )
        except Exception as error:
            raise hub_error(error, name, "does not take it") from error
    return url


def _copy(student: Path, directory: Path) -> None:
    """Copy an exported student, compared with its checksums, and its card, which its user may have changed."""
    require_graph(student)
    directory.mkdir()
    for file, content in read(student, verify(student)).items():
        (directory / file).write_bytes(content)
    write_checksums(directory)
    if (card := student / CARD_NAME).is_file():
        (directory / card.name).write_bytes(card.read_bytes())


def _card(directory: Path, name: HubName, licence: str | None, language: str | None) -> ModelCard:
    """Turn the exported card into the page of the repository."""
    exported = directory / CARD_NAME
    text = exported.read_text(encoding="utf-8") if exported.is_file() else f"# {name.repository}\n"
    exported.unlink(missing_ok=True)
    if not text.startswith("---"):
        text = f"---\n{{}}\n---\n\n{text}"
    try:
        card = ModelCard(placed(text, str(name)))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{exported.name}: expected a YAML header that the hub can read, found: {error}\n"
            "  what to do: mend it, or export the student again"
        ) from None
    header: CardData = card.data
    if header.get("eval_results"):
        header["model_name"] = name.repository.partition("/")[2]
    for field, default in _DEFAULTS.items():
        header[field] = header.get(field, default)
    for field, given in (("license", licence), ("language", language)):
        header[field] = given or header.get(field)
    write_text(directory / CARD_FILE, str(card))
    return card
