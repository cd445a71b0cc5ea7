"""A language model behind an OpenAI-compatible server as a teacher: a prompt asks for each text's class or classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from potstill.config import EndpointConfig, PotstillConfig, TeacherConfig
from potstill.console import counted, print_line, warn
from potstill.data import Corpus, Examples
from potstill.data.columns import listed
from potstill.data.encoded import strata
from potstill.errors import ConfigError, SourceError
from potstill.predict.decision import named
from potstill.predict.wording import numbered
from potstill.store.cache import cache_directory
from potstill.store.checksums import digest
from potstill.store.journal import Journal
from potstill.teacher.chat import ChatClient, FailedError, RefusedError, Reply
from potstill.teacher.choice import (
    class_in,
    classes_in,
    codes_of,
    end_of,
    from_logprobs,
    from_samples,
    several_from_logprobs,
)
from potstill.teacher.untuned import UntunedTeacher, log_odds

Item = tuple[str, str | None]
Messages = list[dict[str, str]]

_TOP_LOGPROBS: Final = (20, 5, 0)
"""Numbers of log-probabilities to ask for: what most servers allow, some, and none."""
_ENOUGH: Final = 20
"""If so many answers name no class, the rest is not asked."""
_IN_A_ROW: Final = 3
"""If requests fail for so many texts one after the other, each time, the server is down."""
_MAX_TOKENS: Final = (8, 64)
"""Of an answer that is one code, and of one that lists several."""
_SHOWN: Final = 100
"""Characters of an answer that names no class."""


@dataclass(frozen=True)
class Answer:
    """An answer to a text.

    Attributes:
        row: The classes' log-probabilities, or log-odds where several may apply; None: it names no class.
        said: Then, what it says.
        tokens: How many its prompts have, and how many its answers.
        sampled: Whether it is one of samples, since the server gave no log-probabilities.
    """

    row: list[float] | None
    said: str
    tokens: tuple[int, int]
    sampled: bool = False


class EndpointTeacher(UntunedTeacher):
    """Asks a server for the class or classes of each text, once: all answers are kept on disk as they come."""

    settings: ClassVar[type[TeacherConfig]] = EndpointConfig
    config: EndpointConfig

    def __init__(self, settings: EndpointConfig, corpus: Corpus) -> None:
        """Write the prompt, and read the answers that were kept; nothing is asked.

        Raises:
            ConfigError: A class that does not exist is described.
        """
        self.config, self.label_names, self.in_pairs = settings, corpus.label_names, corpus.in_pairs
        self.backbone = self.tokenizer_name = settings.backbone
        self.threshold = (0.5,) * corpus.num_classes if corpus.is_multi_label else None
        self._codes = codes_of(len(self.label_names))
        self._prompt = self._prompt_of(corpus)
        self._max_tokens = settings.max_tokens or _MAX_TOKENS[corpus.is_multi_label]
        asked = [settings.url, settings.model, self._prompt, settings.request, self._max_tokens, settings.samples]
        self._asked = digest([json.dumps(asked, sort_keys=True)])
        self._client = ChatClient(settings)
        self._top_logprobs: int | None = None  # not known yet
        self._journal = Journal(cache_directory() / "answers" / f"{self._asked}.jsonl")
        self._known = {key: Answer(**answer) for key, answer in self._journal}
        self._failed: set[str] = set()  # this process does not ask for these texts again

    @property
    def key(self) -> str:
        """A digest of server, model, prompt and settings."""
        return digest([self._asked, str(self.config.min_confidence)])

    def describe(self) -> str:
        """Say which model it is, how it was asked, and what it answers."""
        how = numbered(len(self._prompt) // 2, "labelled text")
        return f"{self.config.describe()}, with {how} in its prompt ({self.coverage or 'not asked yet'})"

    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> NDArray[np.float32]:
        """Return the logits of the probabilities, (texts, classes); NaN where there is no answer.

        Raises:
            SourceError: The server can't be used, is down, or none of its answers names a class.
        """
        keys = [_key(item) for item in examples.items]
        asked = self._known.keys() | self._failed
        new = {key: item for key, item in zip(keys, examples.items, strict=True) if key not in asked}
        if new:
            self._ask(new)
        on_batch(len(examples))
        none, unknown = np.full(len(self.label_names), np.nan, np.float32), Answer(None, "", (0, 0))
        rows = [none if (row := self._known.get(key, unknown).row) is None else np.array(row) for key in keys]
        return self.confident(np.array(rows, dtype=np.float32).reshape(-1, len(self.label_names)))

    def cost(self, corpus: Corpus) -> str:
        """Say how many tokens the answers to the corpus took, and what these cost."""
        keys = {_key(item) for item in corpus.everything.items} & self._known.keys()
        prompts, said = (sum(self._known[key].tokens[place] for key in keys) for place in (0, 1))
        text = f"the answers took {prompts:,} tokens of prompts and {said:,} of answers"
        if (prices := self.config.price_per_million_tokens) is not None:
            text += f", which cost {(prompts * prices[0] + said * prices[-1]) / 1e6:,.2f} by the price given"
        return text

    @classmethod
    def obtain(cls, config: PotstillConfig, corpus: Corpus, directory: Any, seed: int) -> tuple[Self, None]:
        """Ask for all texts of the corpus, and say how many have an answer."""
        assert isinstance(config.teacher, EndpointConfig)
        teacher = cls(config.teacher, corpus)
        teacher.survey(corpus)
        return teacher, None

    def _prompt_of(self, corpus: Corpus) -> Messages:
        """Write the messages before each text: the classes with their codes, and labelled training texts."""
        settings, names = self.config, self.label_names
        if unknown := [name for name in settings.descriptions if name not in names]:
            problem = f"there are no classes {listed(unknown)}; the classes are {listed(names)}"
            raise ConfigError([f"teacher.descriptions: {problem}"])
        meanings = (f" ({settings.descriptions[name]})" if name in settings.descriptions else "" for name in names)
        lines = (f"{code}: {name}{meaning}" for code, name, meaning in zip(self._codes, names, meanings, strict=True))
        what, kind = ("pair of texts", "pair") if self.in_pairs else ("text", "text")
        code, end = "letter" if self._codes[0].isalpha() else "number", end_of(self._codes)
        question, answer = (
            f"Which class does the {what} belong to?",
            f"the {code} of the {kind}'s class and nothing else",
        )
        if corpus.is_multi_label:
            question = f"Which classes does the {what} belong to? It may be one, several or none."
            answer = f"the {code}s of these classes, in the order above, separated by commas, then {end}"
            answer += f", and nothing else; if there are none, with {end} alone"
        beginning = f"{question}\n\n" + "\n".join(lines) + f"\n\nAnswer with {answer}.\n\n"
        count = len(names) * settings.examples_per_class if settings.examples_per_class else settings.examples
        shown = _spread(corpus.train, 0 if corpus.labels_by_teacher else count, settings.examples_seed)
        messages = []
        for item, given in zip(shown.items, named(shown.labels, self._codes), strict=True):
            messages.append({"role": "user", "content": beginning + _shown(item)})
            messages.append(
                {"role": "assistant", "content": given if isinstance(given, str) else ", ".join([*given, end])}
            )
            beginning = ""
        return [*messages, {"role": "user", "content": beginning}]

    def _ask(self, new: dict[str, Item]) -> None:
        """Ask for texts, and keep each answer as it comes."""
        order, failed, in_a_row = list(new), 0, 0
        with counted(f"asking {self.config.model}", len(new)) as advance:
            if self._top_logprobs is None:
                first = min(order, key=lambda key: len(_shown(new[key])))  # which fits in any context
                order.remove(first)
                self._known[first] = self._kept(first, self._first_answer(new[first]))
                advance(1)
            # The threads of this pool are daemons: Ctrl-C does not wait for their requests.
            with ThreadPool(min(self.config.concurrency, max(1, len(order)))) as pool:
                for key, answer in pool.imap_unordered(lambda key: (key, self._try(key, new[key])), order):
                    advance(1)
                    if isinstance(answer, Answer):
                        self._known[key] = answer
                        self._require_classes(at_least=_ENOUGH)
                        in_a_row = 0
                        continue
                    self._failed.add(key)
                    failed, in_a_row = failed + 1, in_a_row + 1
                    if in_a_row == _IN_A_ROW:
                        remedy = "check the server, then repeat the command; the answers so far are kept"
                        raise self._error(f"does not answer ({answer})", remedy)
        self._require_classes(at_least=1)
        said = [self._known[key].said for key in new if key in self._known and self._known[key].row is None]
        if said:
            count = f"{len(said):,} of {numbered(len(new), 'answer')}"
            warn(f"{count} name no class and count as missing, such as {said[0]!r}")
        if failed:
            warn(f"requests for {numbered(failed, 'text')} failed: their answers are missing; a new run asks again")

    def _kept(self, key: str, answer: Answer) -> Answer:
        self._journal.append([key, asdict(answer)])
        return answer

    def _require_classes(self, at_least: int) -> None:
        """Refuse a model of which so many answers are known, and none names a class."""
        if len(self._known) < at_least or any(answer.row is not None for answer in self._known.values()):
            return
        said = next((answer.said for answer in self._known.values()), "")
        self._journal.clear()  # the model may be repaired under this name
        raise self._error(
            f"names no class in its {numbered(len(self._known), 'answer')}, such as {said!r}",
            "ask a model that follows instructions, describe the classes (teacher.descriptions), show it more texts "
            "(--teacher-examples), or let it think (--teacher-max-tokens)",
        )

    def _first_answer(self, item: Item) -> Answer:
        """Find out what the server knows of log-probabilities, with a first text."""
        for count in _TOP_LOGPROBS:
            self._top_logprobs = count
            try:
                answer = self._answer(item)
            except (RefusedError, FailedError) as error:
                problem = str(error)
                if isinstance(error, FailedError) and not error.is_internal:
                    break  # fewer log-probabilities are no help
            else:
                if answer.sampled:
                    self._top_logprobs = 0
                    print_line(f"{self.config.model} gives no log-probabilities: {self.config.samples} samples a text")
                return answer
        self._top_logprobs = None
        remedy = "check that the server runs, its address, and that it takes these requests (teacher.request)"
        raise self._error(f"does not answer the first request ({problem})", remedy) from None

    def _try(self, key: str, item: Item) -> Answer | FailedError:
        """Ask for one text, and keep the answer before this thread asks for another.

        A request that the server does not take is an answer that names no class.
        """
        try:
            return self._kept(key, self._answer(item))
        except RefusedError as error:
            return self._kept(key, Answer(None, str(error)[:_SHOWN], (0, 0)))
        except FailedError as error:
            return error

    def _answer(self, item: Item) -> Answer:
        """Ask for one text, once, or several times where the server gives no log-probabilities."""
        replies: list[Reply] = []
        if self._top_logprobs:
            replies = [self._complete(item, temperature=0, logprobs=True, top_logprobs=self._top_logprobs)]
        if sampled := not replies or bool(replies[0].text and not replies[0].positions):
            samples = [self._complete(item, temperature=1, seed=seed) for seed in range(self.config.samples)]
            shares = from_samples([self._classes_in(reply.text) for reply in samples], self._codes)
            replies += samples
        else:
            shares = (several_from_logprobs if self.threshold else from_logprobs)(replies[0].positions, self._codes)
        prompts, answers = (sum(counts) for counts in zip(*(reply.tokens for reply in replies), strict=True))
        if shares is None:
            return Answer(None, replies[-1].text[:_SHOWN], (prompts, answers), sampled)
        row = [round(float(value), 4) for value in (log_odds if self.threshold else np.log)(shares)]
        return Answer(row, "", (prompts, answers), sampled)

    def _classes_in(self, text: str) -> list[int] | None:
        if self.threshold:
            return classes_in(text, self._codes, self.label_names)
        found = class_in(text, self._codes, self.label_names)
        return None if found is None else [found]

    def _complete(self, item: Item, **fields: Any) -> Reply:
        *before, last = self._prompt
        messages = [*before, last | {"content": last["content"] + _shown(item)}]
        return self._client.complete(messages, max_tokens=self._max_tokens, **fields)

    def _error(self, problem: str, remedy: str) -> SourceError:
        return SourceError(f"{self.config.model} at {self.config.url} {problem}\n  what to do: {remedy}")


def _key(item: Item) -> str:
    return digest([part for part in item if part is not None])


def _shown(item: Item) -> str:
    """Write a text, or a pair of texts, for the prompt."""
    return f"Text: {item[0]}" if item[1] is None else f"Text 1: {item[0]}\nText 2: {item[1]}"


def _spread(examples: Examples, count: int, seed: int) -> Examples:
    """Choose labelled examples at random, as many of each class as can be, in random order; see `strata`."""
    order = np.random.default_rng(seed).permutation(len(examples))
    labels = strata(examples.labels[order])
    ranks = np.empty(len(labels), dtype=np.int64)  # of each text within its class
    for label in np.unique(labels):
        ranks[labels == label] = np.arange(np.count_nonzero(labels == label))
    return examples.take(order[np.sort(np.argsort(ranks, kind="stable")[:count])])
