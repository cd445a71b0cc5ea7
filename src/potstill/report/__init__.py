"""The report of a run: `summary.json` for programs, `report.html` and `report.md` with its plots for people."""

from __future__ import annotations

from pathlib import Path

from potstill.evaluation import Summary
from potstill.evaluation.details import Details
from potstill.predict.directory import DETAILS_FILE, PAGE_FILE, REPORT_FILE, SUMMARY_FILE, run_files
from potstill.report.findings import abstention, findings
from potstill.report.html import report_html
from potstill.report.markdown import report_text
from potstill.report.plots import draw_plots
from potstill.report.tables import summary_table
from potstill.store.atomic import write_text
from potstill.store.checksums import CHECKSUMS_FILE, listed_files, read, write_checksums

__all__ = [
    "findings",
    "is_reported",
    "read_details",
    "read_summary",
    "summary_table",
    "write_report",
]

_PLOTS = "plots"


def write_report(summary: Summary, run_dir: Path, details: Details | None = None, *, text_alone: bool = False) -> None:
    """Write `summary.json`, `report.md`, `report.html`, `plots/*.png` and the checksums of all files into `run_dir`.

    Args:
        summary: The run.
        run_dir: Its directory.
        details: Single texts and curves for the page, kept as `details.json`. None: those that are there; without any
            the page has no such sections. So a report can be written again from its files at any time.
        text_alone: Leave out the plots and the page, which take seconds.

    Raises:
        ArtifactError: `details.json` was altered.
        ConfigError: The summary's settings are none of this version's.
    """
    details = details or read_details(run_dir)
    # The numbers first: whatever happens while drawing, they are kept.
    write_text(run_dir / SUMMARY_FILE, summary.to_json())
    if details is not None:
        write_text(run_dir / DETAILS_FILE, details.to_json())
    if not text_alone:
        draw_plots(summary, run_dir / _PLOTS)
    can_abstain = not summary.data.multi_label
    more = [abstention(details, run_dir)] if details is not None and can_abstain else []
    write_text(run_dir / REPORT_FILE, report_text(summary, _PLOTS, more))
    if not text_alone:
        write_text(run_dir / PAGE_FILE, report_html(summary, details, run_dir, run_dir / _PLOTS))
    write_checksums(run_dir, run_files(run_dir))


def read_details(run_dir: Path) -> Details | None:
    """Read the details of a run, compared with their checksum; None: it has none.

    Raises:
        ArtifactError: They were altered.
    """
    if DETAILS_FILE not in listed_files(run_dir):
        return None
    return Details.from_json(read(run_dir, [DETAILS_FILE])[DETAILS_FILE].decode("utf-8"))


def is_reported(run_dir: Path) -> bool:
    """Say whether `write_report` came to its end there: the checksums are the last that it writes."""
    return all((run_dir / name).is_file() for name in (REPORT_FILE, CHECKSUMS_FILE))


def read_summary(run_dir: Path) -> Summary:
    """Read the summary of a run, compared with its checksum.

    Raises:
        ArtifactError: There is none, or it was altered.
    """
    return Summary.from_json(read(run_dir, [SUMMARY_FILE])[SUMMARY_FILE].decode("utf-8"))
