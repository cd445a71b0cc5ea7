from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from potstill.config import PotstillConfig, Settings, read_yaml
from potstill.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "configs"

names_strategy = st.text(min_size=1)
values_strategy = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {"source": names_strategy}, optional={"max_train_examples": st.none() | st.integers(16)}
        ),
        "teacher": st.fixed_dictionaries(
            {
                "lora": st.fixed_dictionaries(
                    {
                        "target_modules": st.just("all-linear") | st.lists(names_strategy),
                        "alpha": st.floats(1e-300, 1e300),
                    },
                ),
                "seeds": st.lists(st.integers(0), min_size=1, unique=True),
            }
        ),
        "student": st.fixed_dictionaries(
            {
                "cell": st.sampled_from(["rnn", "gru", "lstm"]),
                "training": st.fixed_dictionaries({"max_grad_norm": st.none() | st.floats(1e-9, 1e9)}),
            }
        ),
        "distillation": st.fixed_dictionaries({"alpha": st.floats(0, 1)}),
    },
)


def problems(values) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        PotstillConfig.build(values)
    return caught.value.problems


def test_shipped_configurations():
    files = {path.stem: path for path in SHIPPED.glob("*.yaml")}
    assert set(files) == {"reference", "cola", "cola-small", "cola-quick", "banking77", "demo"}
    for path in files.values():
        PotstillConfig.load(path)


@given(values=values_strategy)
def test_saved_configuration_is_read_back_equal(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    config = PotstillConfig.build(values)
    config.save(path)
    assert PotstillConfig.load(path) == config
    assert set(read_yaml(path)) == set(PotstillConfig.model_fields)  # defaults are written too


def test_missing_settings_have_their_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing but a comment\n")
    assert PotstillConfig.load(tmp_path / "empty.yaml") == PotstillConfig()
    changed = PotstillConfig.build({"teacher": {"lora": {"rank": 4}}})
    assert changed.teacher.lora.rank == 4
    assert changed.teacher.training == PotstillConfig().teacher.training


def test_numbers_as_yaml_writes_them():
    values = yaml.safe_load("{student: {training: {learning_rate: 1e-3}}}")
    assert isinstance(values["student"]["training"]["learning_rate"], str)  # YAML 1.1 wants 1.0e-3
    assert PotstillConfig.build(values).student.training.learning_rate == 1e-3


def test_all_problems_are_listed_with_their_source(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("{student: {cell: elman, hidden_size: 0}, distillation: {alpha: 2}, speed: 9}")
    with pytest.raises(ConfigError) as caught:
        PotstillConfig.load(path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "student.cell",
        "student.hidden_size",
        "distillation.alpha",
        "speed",
    ]
    assert str(path) in str(caught.value)
    assert all(problem in str(caught.value) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"teecher": {}}, "teecher: there is no such setting; did you mean teacher?"),
        (
            {"student": {"training": {"lerning_rate": 1}}},
            "student.training.lerning_rate: there is no such setting; did you mean student.training.learning_rate?",
        ),
        ({"rank": 4}, "rank: there is no such setting; did you mean teacher.lora.rank?"),
        ({"teacher": {"zzz": 4}}, "teacher.zzz: there is no such setting"),
        ({"student": {"seeds": [0, 1, 0]}}, "student.seeds: seeds must be unique; found [0, 1, 0]"),
        ({"student": {"seeds": 1}}, "student.seeds: expected a list, such as [a, b]; found 1"),
        (
            {"student": {"surprisal_size": 64, "num_layers": 2}},
            "student: surprisal_size needs num_layers: 1; choose one of them; "
            "found {'num_layers': 2, 'surprisal_size': 64}",
        ),
    ],
)
def test_mistake_is_refused_with_the_remedy(values, expected):
    assert problems(values) == [expected]


@pytest.mark.parametrize("url", ["postgresql://me:secret@host/trials", "mysql://host/trials?password=secret"])
def test_password_in_a_databases_address_is_refused(url):
    (problem,) = problems({"search": {"storage": url}})
    assert problem.startswith("search.storage: expected an address without a password")


def test_list_of_one_file_is_that_file():
    assert PotstillConfig.build({"data": {"source": ["a.csv"]}}).data.source == "a.csv"


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("training", "epochs", "three"),
        ("training", "epochs", 2.5),
        ("training", "learning_rate", float("nan")),
        ("training", "learning_rate", float("inf")),
        ("training", "learning_rate", 0),
        ("training", "warmup_ratio", 1.0),
        ("training", "metric", "auc"),
        ("lora", "rank", 0),
        ("lora", "target_modules", 5),
    ],
)
def test_wrong_value_is_named_with_its_setting(section, setting, value):
    found = problems({"teacher": {section: {setting: value}}})
    assert all(problem.startswith(f"teacher.{section}.{setting}: ") for problem in found)
    assert all(problem.endswith(f"; found {value!r}") for problem in found)


@pytest.mark.parametrize("values", [{"teacher": 5}, {"teachr": None}, {"student": {"seeds": []}}, {1: 2}])
def test_section_of_the_wrong_type(values):
    assert len(problems(values)) == 1


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text_column": "label"}, "text_column and label_column"),
        ({"pair_column": "text"}, "text_column and pair_column"),
        ({"pair_column": "y", "label_column": "y"}, "pair_column and label_column"),
    ],
)
def test_column_with_two_roles_is_refused(columns, expected):
    (problem,) = problems({"data": columns})
    assert problem.startswith(f"data: {expected} must be different columns; found ")


@pytest.mark.parametrize("section", ["student.training", "augment.training", "augment.lora"])
def test_partial_section_keeps_its_other_defaults(section):
    """They need not be those of its class: a student's epochs are not a teacher's."""
    stage, part = section.split(".")
    plain = getattr(getattr(PotstillConfig(), stage), part)
    name = "dropout" if part == "lora" else "batch_size"
    config = PotstillConfig.build({stage: {part: {name: 0.5 if part == "lora" else 7}}})
    changed = getattr(getattr(config, stage), part)
    assert changed == plain.model_copy(update={name: getattr(changed, name)}) != plain


@pytest.mark.parametrize("content", [b"[1, 2]", b"just words", b"{a: [}", b"\xff\xfe\xff", None])
def test_file_without_a_mapping_is_refused(tmp_path, content):
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        PotstillConfig.load(path)


def test_setting_given_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("student:\n  training: {epochs: 3}\n  cell: gru\n  training: {batch_size: 8}\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml.*\n.*'training' is set twice"):
        PotstillConfig.load(path)
    path.write_text("student: {training: &t {<<: {epochs: 3}, epochs: 4}}\nteacher: {training: {<<: *t}}\n")
    assert PotstillConfig.load(path).teacher.training.epochs == 4


def test_empty_section_has_the_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("teacher:\n  # seeds: [1]\nstudent:\n  cell: gru\n  training:\n")
    assert PotstillConfig.load(path) == PotstillConfig.build({"student": {"cell": "gru"}})


def stages(stage: type[Settings]):
    yield stage
    for field in stage.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from stages(field.annotation)


@pytest.mark.parametrize("stage", sorted(set(stages(PotstillConfig)) - {PotstillConfig}, key=lambda s: s.__name__))
def test_every_setting_is_documented(stage):
    assert stage.__doc__
    for name, field in stage.model_fields.items():
        assert field.description or issubclass(field.annotation, Settings), name
