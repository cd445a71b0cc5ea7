"""The time limit of a run: how much of it is used, and by when each step has to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from potstill.errors import ArtifactError
from potstill.experiment.plan import Plan
from potstill.experiment.run_directory import BUDGET_FILE
from potstill.store.atomic import read_json, write_json

_BEAT_SECONDS: Final = 2.0
"""How often the time used is written down: a run that is killed loses count of no more."""


class Budget:
    """The time that a run may take. It is written to `budget.json`, so that a resumed run counts the time used before.

    Attributes:
        limit: Seconds from the run's begin to its end, pauses between interruption and resumption left out; None: there
            is no limit.
        kept: The plan that an earlier call has made; None: there is none.
    """

    def __init__(self, directory: Path, limit: float | None, started: float) -> None:
        self.limit, self._path, self._started = limit, directory / BUDGET_FILE, started
        self._before, self.kept = 0.0, None
        if limit is not None and self._path.is_file():
            found = read_json(self._path)
            self._before, self.kept = float(found["used"]), found["plan"]

    @property
    def used(self) -> float:
        """Seconds used, those before an interruption included."""
        return self._before + time.time() - self._started

    def keep(self, plan: Plan) -> None:
        """Write down the plan, for a resumed run."""
        self.kept = {name: getattr(plan, name) for name in ("settings", "with_teacher", "changes")}
        self._write()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Write down the time used, now and then and at the end."""
        if self.limit is None:
            yield
            return
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_SECONDS):
                with suppress(ArtifactError):  # the work itself will say what is wrong with the disk
                    self._write()

        self._write()
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with suppress(ArtifactError):
                self._write()

    def ends(self, part: float, rest: float) -> float | None:
        """Return by when a step has to end, as `time.time` counts; None: there is no limit for it.

        Args:
            part: Seconds that the step takes by estimate; 0: they are not known, or there are none.
            rest: The same for this step and all that follow, which share what is left in proportion.
        """
        if self.limit is None or part == 0:
            return None
        return time.time() + max(0.0, self.limit - self.used) * part / rest

    def _write(self) -> None:
        content: dict[str, Any] = {"limit": self.limit, "used": self.used, "plan": self.kept}
        write_json(self._path, content)
