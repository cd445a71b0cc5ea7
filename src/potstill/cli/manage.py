"""The commands that look after what others have written: runs, cache."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potstill.errors import ArtifactError
from potstill.predict.wording import numbered

if TYPE_CHECKING:
    from potstill.evaluation import Summary
    from potstill.report.tables import Cell

_PAID = "answers"
"""The kind of entries that may cost money to make again."""
_JSON_ONLY = ("settings", "command", "begun")
"""What a line of 80 characters has no room for."""


@click.command()
@click.argument("directories", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--delete", is_flag=True, help="Delete the directories, after a question.")
@click.option("--yes", is_flag=True, help="Delete without the question.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(directories: tuple[Path, ...], delete: bool, yes: bool, as_json: bool) -> None:
    """List runs, compare some, or delete them.

    Without arguments, `runs` lists the directory `runs`, newest first. With several DIRECTORIES, it shows their
    recommended students and the settings that differ. --delete deletes whole directories, models included; if a
    process is working in one of them, it deletes none.

    \b
      potstill runs
      potstill runs runs/first runs/second
      potstill runs --delete runs/first
    """
    from potstill.experiment.run_directory import RUNS

    if delete:
        _delete(directories, ask=not yes)
        return
    if directories:
        rows = [_described(directory) for directory in directories]
    else:
        rows = [_described_anyway(directory) for directory in sorted(_begun_in(RUNS), key=_begun, reverse=True)]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        click.echo(f"no runs in {RUNS.resolve()}; `potstill run FILE` makes one")
        return
    _print_table([{name: value for name, value in row.items() if name not in _JSON_ONLY} for row in rows])
    if len(directories) > 1:
        _print_differing(rows)


@click.command()
@click.argument("kinds", nargs=-1)
@click.option("--clear", is_flag=True, help="Delete the entries: of the kinds that are named, or of all but answers.")
def cache(kinds: tuple[str, ...], clear: bool) -> None:
    """Show or clear the cache, which keeps what takes long to compute.

    Commands make again what they miss. The KINDS are `backbones` (converted weights of pretrained models), `answers`
    (of servers, which may cost money to ask again), `logits` (other teachers' answers), `tokens` and `vocabularies`.
    The cache is in $POTSTILL_CACHE, else in the user's cache directory.

    \b
      potstill cache
      potstill cache --clear logits
    """
    from potstill.store.cache import cache_directory

    place = cache_directory()
    known = sorted(entry for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []
    if unknown := sorted(set(kinds) - {entry.name for entry in known}):
        raise ArtifactError(
            f"{place}: there is nothing of the kind {', '.join(unknown)}\n"
            f"  what to do: name one of {', '.join(entry.name for entry in known) or 'none: the cache is empty'}"
        )
    chosen = [entry for entry in known if not kinds or entry.name in kinds]
    rows = [
        {"kind": kind.name, "entries": len([*kind.glob("[!.]*")]), "size": f"{_size(kind) / 1e6:,.1f} MB"}
        for kind in chosen
    ]
    click.echo(f"cache: {place}")
    if rows:
        _print_table(rows)
    if clear:
        deleted = [kind for kind in chosen if kinds or kind.name != _PAID]
        for kind in deleted:
            shutil.rmtree(kind)
        click.echo(f"deleted: {', '.join(kind.name for kind in deleted) or 'nothing'}")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _begun_in(place: Path) -> Iterator[Path]:
    from potstill.experiment.run_directory import STATE_FILE

    return (file.parent for file in place.glob(f"*/{STATE_FILE}"))


def _begun(directory: Path) -> float:
    from potstill.experiment.run_directory import STATE_FILE

    return (directory / STATE_FILE).stat().st_mtime


def _require_run(directory: Path) -> None:
    from potstill.experiment.run_directory import STATE_FILE

    if not (directory / STATE_FILE).is_file():
        raise ArtifactError(
            f"{directory}: expected a run's directory, found no {STATE_FILE}\n  what to do: name one that "
            "`potstill run` wrote; `potstill evaluate` compares other models"
        )


def _described(directory: Path) -> dict[str, Any]:
    """Describe a run by what is in its directory.

    Raises:
        ArtifactError: No run has begun there, or its files are damaged.
    """
    from potstill.experiment.run_directory import STATE_FILE
    from potstill.report import is_reported, read_summary
    from potstill.store.atomic import read_json

    _require_run(directory)
    state = read_json(directory / STATE_FILE)
    if not (isinstance(state.get("command"), str) and isinstance(state.get("settings"), dict)):
        raise ArtifactError(f"{directory / STATE_FILE}: expected a run's state, found something else")
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(_begun(directory)))
    row = {"run": str(directory), "command": state["command"], "begun": begun, "state": state["command"]}
    if state["command"] == "run":  # only it writes a report
        row["state"] = "finished" if is_reported(directory) else "running" if _is_running(directory) else "interrupted"
    if row["state"] == "finished":
        row |= _scores(read_summary(directory))
    return row | {"size": f"{_size(directory) / 1e6:,.0f} MB", "settings": state["settings"]}


def _is_running(directory: Path) -> bool:
    from potstill.experiment.run_directory import BusyError, locked

    try:
        with locked(directory):
            return False
    except BusyError:
        return True


def _described_anyway(directory: Path) -> dict[str, Any]:
    """Describe a run; of one with damaged files say that."""
    try:
        return _described(directory)
    except ArtifactError:
        return {"run": str(directory), "state": "damaged; `potstill doctor` says more", "settings": {}}


def _scores(summary: Summary) -> dict[str, Any]:
    from potstill.report.tables import HEADLINES, percent, score

    known = {"data": summary.data.name}
    if (role := summary.recommended_role) is None:
        return known
    first = summary.data.headline
    shares, mcc = summary.spread(role, first), summary.spread(role, "mcc")
    return known | {"student": role, HEADLINES[first]: percent(shares.mean), "MCC": score(mcc.mean)}


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    from potstill.console import SafeConsole
    from potstill.report.tables import EMPTY, Cell, ResultTable

    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(row: dict[str, Any], name: str) -> Cell:
        return Cell(str(row[name])) if name in row else EMPTY

    table = ResultTable(tuple(names), tuple(tuple(cell(row, name) for name in names) for row in rows))
    SafeConsole(highlight=False, markup=False).print(table.to_rich())


def _print_differing(rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    values = {name: [row["settings"].get(name) for row in rows] for name in names}
    differing = {name: found for name, found in values.items() if any(value != found[0] for value in found)}
    if not differing:
        click.echo("the settings are the same")
        return
    _print_table(
        [{"setting": name} | {row["run"]: value for row, value in zip(rows, found, strict=True)}
         for name, found in differing.items()]
    )  # fmt: skip


def _delete(directories: Sequence[Path], *, ask: bool) -> None:
    """Delete runs.

    Raises:
        ArtifactError: One is no run, or a process is at work there; nothing is deleted then.
    """
    from potstill.experiment.run_directory import locked

    if not directories:
        raise click.UsageError("name the directories to delete, as in `potstill runs --delete runs/NAME`")
    found = {directory.resolve(): directory for directory in directories}
    for place, directory in found.items():
        _require_run(directory)
        if _is_running(place):
            raise ArtifactError(f"{directory}: a process is working there\n  what to do: wait for its end, or end it")
    sizes = sum(map(_size, found))
    if ask:
        names = ", ".join(map(str, found.values()))
        click.confirm(f"delete {names} ({sizes / 1e6:,.0f} MB)?", abort=True)
    for place in found:
        with locked(place):  # it may have been resumed meanwhile
            shutil.rmtree(place)
    click.echo(f"deleted {numbered(len(found), 'run')}, {sizes / 1e6:,.0f} MB")
