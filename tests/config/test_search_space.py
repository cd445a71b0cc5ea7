"""What a search may try: accepted where the setting itself would accept it, refused by name where not."""

import functools

import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from potstill.config import PotstillConfig, searchable, with_settings
from potstill.errors import ConfigError
from potstill.experiment.study import distribution

NAMES = sorted(searchable())
NUMBERS = [name for name in NAMES if searchable()[name].annotation in (int, float)]
numbers = st.integers(-3, 600) | st.floats(-2, 600) | st.sampled_from([0, 1, 0.5, 1e-4])
values = st.none() | st.booleans() | numbers | st.sampled_from(["lstm", "mean", "kl", "cosine", "8", "1e-3", "x", ""])


def space_of(given_space, **settings):
    return PotstillConfig.build({"search": {"space": given_space, **settings}}).search.space


def problems(given_space, **settings):
    with pytest.raises(ConfigError) as caught:
        space_of(given_space, **settings)
    return caught.value.problems


def as_setting(name, value):
    """Return what the setting itself makes of `value`; None where it refuses it."""
    try:
        return (value_of(with_settings(PotstillConfig(), {name: value}), name),)
    except ConfigError:
        return None


def value_of(config, name):
    return functools.reduce(getattr, name.split("."), config)


@given(name=st.sampled_from(NAMES), value=values)
def test_value_is_fixed_if_and_only_if_the_setting_takes_it(name, value):
    taken = as_setting(name, value)
    if taken is None:
        (problem,) = problems({name: value})
        assert problem.startswith(f"search.space.{name}: ")
        assert problem.endswith(f"found {value!r}")
    else:
        assert space_of({name: value})[name].choices == taken
        assert space_of({name: value})[name].fixed


@given(name=st.sampled_from(NUMBERS), low=numbers, high=numbers)
def test_range_is_taken_if_and_only_if_the_setting_takes_both_ends(name, low, high):
    given = {name: {"low": low, "high": high}}
    if low < high and as_setting(name, low) and as_setting(name, high):
        found = space_of(given)[name]
        assert ((found.low,), (found.high,)) == (as_setting(name, low), as_setting(name, high))
    else:
        assert problems(given)[0].startswith(f"search.space.{name}")


@given(
    name=st.sampled_from(["student.hidden_size", "distillation.temperature", "student.training.patience"]),
    low=st.integers(1, 30),
    steps=st.integers(1, 9),
    step=st.none() | st.integers(1, 7),
    log=st.booleans(),
    seed=st.integers(0, 99),
)
def test_draws_are_candidates_and_values_of_the_setting(name, low, steps, step, log, seed):
    assume(not (log and step))
    given = {"low": low, "high": low + steps * (step or 1), "log": log} | ({"step": step} if step else {})
    candidates = space_of({name: given})[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = study.ask({name: distribution(candidates)}).params[name]
    assert candidates.has(drawn)
    assert as_setting(name, drawn) == (drawn,)
    assert not candidates.has(given["high"] + 1)
    assert not candidates.has(None)
    if step and step > 1:
        assert not candidates.has(low + step / 2)


def test_choices_are_converted_as_the_setting_converts_them():
    candidates = space_of({"student.training.patience": {"choices": [None, "3", 5]}})["student.training.patience"]
    assert candidates.choices == distribution(candidates).choices == (None, 3, 5)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("distillation.alhpa", 1, "(did you mean distillation.alpha?)"),
        ("alpha", 1, "(did you mean distillation.alpha?)"),
        ("cell", "gru", "(did you mean student.cell?)"),
        (
            "zzz",
            1,
            "a search tries the numbers, switches and choices of student and distillation; this is none of them",
        ),
        ("student.seeds", 1, "a search tries the numbers"),
        ("student.training", 1, "a search tries the numbers"),
        ("teacher.lora.rank", 4, "a search tries the numbers"),
        ("distillation.teachers", "best", "a search tries the numbers"),
        ("student.threshold", "tuned", "a search tries the numbers"),
        ("student.hidden_size", [64, 128], "expected {low: …, high: …}, {choices: […]} or a single value"),
        ("student.hidden_size", {}, "expected low and high, or choices"),
        ("student.hidden_size", {"low": 64}, "expected low and high, or choices"),
        ("student.hidden_size", {"low": 64, "high": 64}, "low must be below high"),
        ("student.hidden_size", {"low": 64, "high": 128, "step": 60}, "step must lead from low to high"),
        ("student.hidden_size", {"low": 64, "high": 128, "choices": [64]}, "choices stand alone"),
        ("student.hidden_size", {"choices": []}, "a list of 1 or more"),
        ("student.hidden_size", {"choices": [64, "64"]}, "choices must be unique"),
        ("student.dropout", {"low": 0, "high": 0.5, "log": True}, "log: true needs a low above 0"),
        ("student.dropout", {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}, "log and step exclude each other"),
        ("student.cell", {"low": 0, "high": 2}, "this setting takes no numbers between two ends"),
    ],
)
def test_candidates_that_can_not_be_searched_are_refused_by_name(name, given, expected):
    (problem,) = problems({name: given})
    assert problem.startswith(f"search.space.{name}")
    assert expected in problem


def test_all_problems_are_reported_at_once():
    found = problems({"student.cell": "gnu", "alpha": 1, "student.dropout": {"low": 0, "high": 1}}, trials=0)
    assert [problem.partition(": ")[0] for problem in found] == [
        *("search.trials", "search.space.alpha", "search.space.student.cell", "search.space.student.dropout")
    ]


def test_default_space_holds_the_default_configuration():
    """The first trial is made of it."""
    space = space_of({})
    assert {name.rpartition(".")[2] for name in space} >= {"alpha", "temperature", "learning_rate", "hidden_size"}
    assert all(candidates.has(value_of(PotstillConfig(), name)) for name, candidates in space.items())


def test_given_candidates_replace_and_extend_the_default_space():
    space = space_of({"student.hidden_size": 8, "student.cell": {"choices": ["rnn", "gru"]}})
    assert space["student.hidden_size"].choices == (8,)
    assert set(space) == {*space_of({}), "student.cell"}


def test_order_of_the_names_does_not_matter():
    given = {"student.cell": "gru", "distillation.alpha": 0.5, "student.num_layers": {"choices": [1, 2]}}
    reverse = dict(reversed(given.items()))
    assert list(space_of(given).items()) == list(space_of(reverse).items())


def test_saved_space_is_written_as_given_and_loads_equal(tmp_path):
    given = {
        "student.hidden_size": {"low": 64, "high": 256, "step": 64},
        "student.training.learning_rate": {"low": "1e-4", "high": 1e-2, "log": True},
        "student.training.patience": {"choices": [None, 3]},
        "student.training.max_grad_norm": None,
        "student.bidirectional": False,
        "student.cell": "gru",
    }
    config = PotstillConfig.build({"search": {"space": given}})
    config.save(tmp_path / "config.yaml")
    assert PotstillConfig.load(tmp_path / "config.yaml") == config
    written = (tmp_path / "config.yaml").read_text()
    assert "student.hidden_size:\n      low: 64\n      high: 256\n      step: 64\n" in written
    assert "student.training.max_grad_norm: null\n" in written
    assert "student.bidirectional: false\n" in written
    assert config.search.space["student.training.learning_rate"].low == 1e-4
