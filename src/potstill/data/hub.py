"""Whether the Hugging Face hub answers: it is asked only for names that are not on this disk."""

from __future__ import annotations

import functools

from huggingface_hub import constants, get_session

_TIMEOUT = 4.0
"""Seconds to wait for the hub's first answer."""


@functools.cache
def hub_answers() -> bool:
    """Ask the hub once whether it is there; the libraries would try for each file anew, half a minute long."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # the HTTP library, and with it the error, differs between versions of huggingface_hub
        return False
    return True
