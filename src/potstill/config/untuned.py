"""Settings of teachers that are asked and not tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from potstill.config.teacher import TeacherConfig


def _address(url: str) -> str:
    """Refuse what is no web address, and a password in it: settings are saved and shown."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an address such as http://localhost:8000/v1")
    if parts.username is not None or parts.query:
        raise ValueError("expected an address without a name, password or query; set OPENAI_API_KEY instead")
    return url.rstrip("/")


class UntunedConfig(TeacherConfig):
    """What teachers that are asked and not tuned have in common."""

    seeds: Annotated[tuple[int, ...], Field(max_length=1)] = (0,)
    """There is one teacher."""
    backbone: str = "smollm2-135m"
    """Pretrained model whose embeddings and words the students begin with; it is not tuned."""
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Ignore an answer that has a lower probability: that of its class, or, where a text may have several labels, that
    of just these together. 0: use all. (For `file` and `endpoint`.)"""


class FileConfig(UntunedConfig):
    """A file of probabilities."""

    kind: str = "file"
    file: str
    """File, in any format of the data, with the columns of your texts and one column of probabilities for each
    class, or with a column of labels and one that says how certain each is. Rows of the same text are averaged; where
    texts have several labels, rows with a label each add up."""
    values: Literal["probabilities", "logits"] = "probabilities"
    """What the classes' columns of a teacher's file hold."""
    confidence_column: str = "confidence"
    """Column of the label's probability, between 0 and 1, where a teacher's file has no column for each class. The
    other classes share the rest equally."""

    def describe(self) -> str:
        """Say which file it is."""
        return f"the file of probabilities `{Path(self.file).name}`"


class EndpointConfig(UntunedConfig):
    """A language model behind an OpenAI-compatible HTTP server."""

    kind: str = "endpoint"
    url: Annotated[str, AfterValidator(_address)]
    """Address of the server, such as `http://localhost:8000/v1`. Its key, if it wants one, is read from the environment
    variable `OPENAI_API_KEY`, and neither saved nor logged."""
    model: Annotated[str, Field(min_length=1)]
    """The server's name for the model that `--teacher http://…` asks."""
    descriptions: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    """What classes mean, in a sentence each, for the prompt (in YAML: `class: sentence`). Classes may be left out."""
    examples: Annotated[int, Field(ge=0)] = 8
    """Number of labelled training texts in the prompt, equally many of each class. More of them explain the classes
    better, and cost tokens with every text. Without labels there are none."""
    examples_per_class: Annotated[int, Field(ge=1)] | None = None
    """Labelled training texts of each class in the prompt, instead of `examples`. None: `examples` decides."""
    examples_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of labelled texts for the prompt."""
    samples: Annotated[int, Field(ge=1)] = 5
    """Number of answers to ask for each text if the server returns no log-probabilities; how often they name each class
    makes its probability."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer in tokens. The answer is a number or a letter, or a list of them; raise it to some hundred for a
    model that thinks first. None: 8, or 64 where a text may have several labels."""
    request: dict[str, Any] = {}  # noqa: RUF012 - likewise
    """Further fields of each request, which replace ours (in YAML), such as `chat_template_kwargs: {enable_thinking:
    false}`. `null` leaves one of ours out."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Number of requests at once."""
    requests_per_minute: Annotated[float, Field(gt=0.0)] | None = None
    """Largest number of requests a minute. None: no limit but the server's `Retry-After`."""
    timeout: Annotated[float, Field(gt=0.0)] = 120.0
    """Seconds to wait for an answer before a request counts as failed."""
    retries: Annotated[int, Field(ge=0)] = 5
    """How often a request that failed (429, 5xx, a timeout, a broken answer) is sent again, after 1, 2, 4, … seconds or
    what the server asks for."""
    price_per_million_tokens: Annotated[tuple[float, ...], Field(min_length=1, max_length=2)] | None = None
    """Price of a million tokens, or of a million in prompts and in answers (`0.15,0.6`). The report then shows the
    cost. None: it shows tokens only."""

    def describe(self) -> str:
        """Say which model it is."""
        return f"the language model `{self.model}`, asked over HTTP and not tuned"
