"""The settings of a whole run, read from YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from potstill.config.augment import AugmentConfig
from potstill.config.base import Settings
from potstill.config.data import DataConfig
from potstill.config.messages import describe_problem
from potstill.config.presets import Preset, with_preset
from potstill.config.search import SearchConfig
from potstill.config.student import BaselineConfig, DistillationConfig, RNNConfig, StudentConfig
from potstill.config.teacher import TeacherConfig, TransformerConfig
from potstill.config.training import RuntimeConfig
from potstill.errors import ConfigError
from potstill.store.atomic import write_text
from potstill.student.registry import STUDENTS, student_class
from potstill.teacher.registry import TEACHERS, teacher_class


def _by_kind(default: type[Settings], known: Mapping[str, Any], find: Callable[[str], Any]) -> BeforeValidator:
    """Read settings as those of the kind that they name; the default kind's class is here, without torch."""

    def read(given: Any) -> Any:
        kind = given.get("kind", default.model_fields["kind"].default) if isinstance(given, dict) else None
        if kind is None:
            return given
        if kind not in known:
            raise ValueError(f"expected one of the kinds {', '.join(known)}")
        settings = default if kind == default.model_fields["kind"].default else find(kind).settings
        return settings.model_validate(given)

    return BeforeValidator(read)


class PotstillConfig(Settings):
    """A whole run."""

    preset: Preset = "plain"
    """Set of defaults. `balanced`, which `potstill run` takes without --config: the student also learns from the
    teacher's answers to single words and short phrases, starts from the teacher's embeddings and reads n-grams; epochs,
    learning rate, dropout and three seeds are set too. `fast`: the same with fewer texts, about one teacher epoch and
    one student. `best`, which takes hours: three teachers, whose probabilities are averaged, twice the words and
    phrases, and 20,000 texts that the backbone writes (only decoders can). `plain`: nothing of this."""
    data: DataConfig = DataConfig()
    teacher: Annotated[SerializeAsAny[TeacherConfig], _by_kind(TransformerConfig, TEACHERS, teacher_class)] = (
        TransformerConfig()
    )
    augment: AugmentConfig = AugmentConfig()
    student: Annotated[SerializeAsAny[StudentConfig], _by_kind(RNNConfig, STUDENTS, student_class)] = RNNConfig()
    distillation: DistillationConfig = DistillationConfig()
    baseline: BaselineConfig = BaselineConfig()
    search: SearchConfig = SearchConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @classmethod
    def load(cls, path: Path | str) -> PotstillConfig:
        """Read a YAML file.

        Raises:
            ConfigError: The file can't be read, is no mapping, or holds unknown names or values out of range.
        """
        return cls.build(read_yaml(path), source=str(path))

    @classmethod
    def build(cls, values: dict[str, Any], source: str = "the configuration") -> PotstillConfig:
        """Validate nested `values`.

        Raises:
            ConfigError: With every problem that was found.
        """
        try:
            return cls.model_validate(with_preset(values))
        except ValidationError as error:
            raise ConfigError([describe_problem(item, cls()) for item in error.errors()], source) from None

    def save(self, path: Path) -> None:
        """Write all settings, defaults included, as YAML that `load` reads back to the same settings.

        The preset becomes `plain`: all that it sets is there, and a later version's may set something else.
        """
        write_text(path, yaml.safe_dump(self.model_dump(mode="json") | {"preset": "plain"}, sort_keys=False))


def with_settings(config: PotstillConfig, settings: dict[str, Any]) -> PotstillConfig:
    """Return `config` with the values of some settings, by dotted name; a ConfigError says which can't be."""
    values = config.model_dump(mode="json")
    for name, value in settings.items():
        *section, leaf = name.split(".")
        place = values
        for part in section:
            place = place[part]
        place[leaf] = value
    return PotstillConfig.build(values, "changed settings")


class _Loader(yaml.SafeLoader):
    """Refuses a setting that is set twice, of which YAML would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value!r} is set twice", key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping through the safe loader.

    Raises:
        ConfigError: The file can't be read or is no mapping.
    """
    try:
        values = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    # ValueError: no UTF-8, no date, a number of too many digits. RecursionError: a thousand brackets.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError([f"it can't be read as YAML: {error}"], str(path)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"expected a mapping of settings, found {type(values).__name__}"], str(path))
    return values
