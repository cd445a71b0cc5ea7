"""The only place where Potstill runs another program: Node, on the check that an export has just written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from potstill.errors import ArtifactError

CHECK_FILE: Final = "check.js"
_LONGEST: Final = 300.0
"""Seconds. The largest students take some."""
_REMEDY: Final = "use Node 18 or newer, or --format onnx; without `node` on the PATH, nothing is compared"


def run_check(directory: Path) -> str | None:
    """Run `node check.js` in the directory of an export: no shell, no other argument, no input.

    Returns:
        What it printed; None where no `node` is on the PATH.

    Raises:
        ArtifactError: JavaScript answers otherwise than Python, or Node can't tell.
    """
    node = shutil.which("node")
    if node is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - Potstill's own file, and nothing that a user gave
            [str(Path(node).absolute()), CHECK_FILE],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LONGEST,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ArtifactError(f"{node} can't compare JavaScript with Python: {error}\n  what to do: {_REMEDY}") from None
    printed, complaint = (stream.decode(errors="replace").strip() for stream in (done.stdout, done.stderr))
    if done.returncode:
        raise ArtifactError(
            f"expected JavaScript to answer as Python does, found ({node}): {printed or complaint[-500:]}\n"
            f"  what to do: {_REMEDY}"
        )
    return printed
