"""Settings that belong together."""

import pytest

from potstill.config import PotstillConfig
from potstill.config.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_are_read_back_as_they_were(name, tmp_path):
    config = PotstillConfig.build({"preset": name})
    config.save(tmp_path / "config.yaml")
    loaded = PotstillConfig.load(tmp_path / "config.yaml")
    assert loaded == config.model_copy(update={"preset": "plain"})  # all that it sets is there


def test_what_is_set_goes_over_the_preset():
    given = {"preset": "balanced", "augment": {"words": 5}, "student": {"training": {"epochs": 3}}}
    config = PotstillConfig.build(given)
    assert (config.augment.words, config.augment.spans) == (5, 20_000)
    assert (config.student.training.epochs, config.student.training.keep) == (3, "last")
    assert config.student.embedding_init == "teacher"


def test_without_a_preset_the_settings_have_their_own_defaults():
    assert PotstillConfig.build({}) == PotstillConfig.build({"preset": "plain"}) == PotstillConfig()


def test_preset_leaves_out_what_another_choice_has_no_use_for():
    config = PotstillConfig.build({"preset": "balanced", "student": {"kind": "ngram"}, "distillation": {"alpha": 1.0}})
    assert (config.student.training.keep, config.student.seeds) == ("last", (0, 1, 2))
    assert config.student.embedding_init == "random"
    assert not config.augment.wanted(in_pairs=False)
    assert config.teacher.training.min_steps == 200


@pytest.mark.parametrize("alpha", [1, 1.0, "1", "1.0"])  # a flag's value is a string
def test_presets_add_no_unlabelled_text_where_the_teacher_is_ignored(alpha):
    config = PotstillConfig.build({"preset": "balanced", "distillation": {"alpha": alpha}})
    assert not config.augment.wanted(in_pairs=False)


@pytest.mark.parametrize("data", [{"label_separator": "|"}, {"label_columns": ["a", "b"]}, {"multi_label": True}])
def test_best_preset_sets_nothing_that_texts_with_several_labels_can_not_have(data):
    config = PotstillConfig.build({"preset": "best", "data": data})
    assert (config.augment.sampled, config.distillation.teachers) == (0, "average")
    assert config.augment.words == PRESETS["best"]["augment"]["words"]
    assert config.teacher.seeds == (0, 1, 2)
