"""Saved models behind HTTP, and a page to try them. Needs the extra `serve`; torch only where a teacher is served."""

from potstill.serve.app import create_app

__all__ = ["create_app"]
