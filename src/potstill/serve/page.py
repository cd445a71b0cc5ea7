"""The page at `/`: one file with its style and script in it, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from fastapi.responses import HTMLResponse


@cache
def page() -> HTMLResponse:
    """Return the page; its Content-Security-Policy names the digests of its own style and script, and no origin."""
    html = resources.files("potstill.serve").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; style-src {_digest('style', html)}; script-src {_digest('script', html)}"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # a newer Potstill may bring a newer page
    }
    return HTMLResponse(html, headers=headers)


def _digest(element: str, html: str) -> str:
    """Return the source expression of the one element of this kind (CSP 3, section 2.3.1, hash-source)."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
