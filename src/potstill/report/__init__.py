"""The report of a run: `summary.json` for programs, `report.md` with its plots for people."""

from __future__ import annotations

from pathlib import Path

from potstill.evaluation import Summary
from potstill.predict.directory import REPORT_FILE, SUMMARY_FILE, run_files
from potstill.report.findings import findings
from potstill.report.markdown import report_text
from potstill.report.plots import draw_plots
from potstill.report.tables import summary_table
from potstill.store.atomic import write_text
from potstill.store.checksums import CHECKSUMS_FILE, read, write_checksums

__all__ = [
    "findings",
    "is_reported",
    "read_summary",
    "summary_table",
    "write_report",
]

_PLOTS = "plots"


def write_report(summary: Summary, run_dir: Path) -> None:
    """Write `summary.json`, `report.md`, `plots/*.png` and the checksums of all files into `run_dir`.

    Everything comes from `summary`, so a report can be written again from its file at any time.

    Raises:
        ConfigError: The summary's settings are none of this version's.
    """
    # The numbers first: whatever happens while drawing, they are kept.
    write_text(run_dir / SUMMARY_FILE, summary.to_json())
    draw_plots(summary, run_dir / _PLOTS)
    write_text(run_dir / REPORT_FILE, report_text(summary, _PLOTS))
    write_checksums(run_dir, run_files(run_dir))


def is_reported(run_dir: Path) -> bool:
    """Say whether `write_report` came to its end there: the checksums are the last that it writes."""
    return all((run_dir / name).is_file() for name in (REPORT_FILE, CHECKSUMS_FILE))


def read_summary(run_dir: Path) -> Summary:
    """Read the summary of a run, compared with its checksum.

    Raises:
        ArtifactError: There is none, or it was altered.
    """
    return Summary.from_json(read(run_dir, [SUMMARY_FILE])[SUMMARY_FILE].decode("utf-8"))
