"""The config: what it refuses, what it makes of its options, and files of the earlier version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import lrpet
from lrpet.train.config import Config, make_config, read_config
from lrpet.train.options import RECIPE

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_every_option_is_a_field_with_its_default() -> None:
    config = make_config({"keep": 0.5})
    assert config.model_fields_set == {"keep"}
    assert list(Config.model_fields) == list(RECIPE)
    assert {name: getattr(config, name) for name in RECIPE if name != "keep"} == {
        name: option.default for name, option in RECIPE.items() if name != "keep"
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "takes keep, or a plan, or budgets of macs"),
        ({"keep": 1.5}, "keep=1.5: input should be less than or equal to 1"),
        ({"keep": 0.5, "macs": 0.5}, "got keep and macs"),
        ({"keep": 0.5, "method": "dense"}, "dense takes no budget; got keep"),
        ({"keeep": 0.5}, "no option 'keeep'; the options are model, "),
        ({"keep": 0.5, "project_from": 0.2}, "no option 'project_from'; project_from is called start now"),
        ({"keep": 0.5, "layers": ["*"]}, "layers is called include now"),
        ({"keep": 0.5, "start": 1.0}, "start=1.0 must be a fraction of training"),
        ({"keep": 0.5, "start": -1}, "start=-1 must be a fraction of training"),
        ({"keep": 0.5, "every": 0}, "every=0 must be a whole number of steps"),
        ({"keep": 0.5, "every": 0.0}, "every=0.0 must be a whole number of steps"),
        ({"keep": 0.5, "every": 1.5}, "every=1.5 must be a whole number of steps"),
        ({"keep": 0.5, "every": 30, "every_last": 40}, "every_last=40 must be at most every=30"),
        ({"keep": 0.5, "shrink_from": 0.2}, "shrink_from=0.2 goes with every_last"),
        ({"keep": 0.5, "allocate": "energy"}, "allocate=energy divides a budget .* in place of keep"),
        ({"plan": "p.json", "allocate": "energy"}, "allocate=energy divides a budget .* in place of the plan"),
        ({"macs": 0.5, "allocate": "energy", "start": 0}, "nothing is trained when projections begin"),
        ({"plan": "p.json", "exclude": "conv1"}, "leave out exclude$"),
        ({"keep": 0.5, "min_saving": 1.0}, "min_saving=1.0"),
        ({"keep": 0.5, "overrides": "{a: "}, "is not YAML"),
        ({"keep": 0.5, "overrides": "a"}, "is no mapping"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(values)


def test_one_pattern_needs_no_list() -> None:
    config = make_config({"keep": 0.5, "include": "*.mlp.*", "exclude": ["head", "stem"]})
    assert (config.include, config.exclude) == (("*.mlp.*",), ("head", "stem"))


def test_fractions_are_floats_and_counts_are_ints() -> None:
    for start in (0, 0.0, 0.5, 2000):
        config = make_config({"keep": 0.5, "start": start})
        assert (config.start, type(config.start)) == (start, type(start))
        (read,) = (yaml.safe_load(config.to_yaml()),)
        assert (read["start"], type(read["start"])) == (start, type(start))
    assert make_config({"keep": 0.5, "start": "0.25"}).start == 0.25
    assert type(make_config({"keep": 0.5, "start": "100"}).start) is int


def test_when_it_projects() -> None:
    def schedule(**options: Any) -> Any:
        return make_config({"keep": 0.5, "epochs": 8, **options}).projection_schedule(100)

    assert schedule(every=30) == 30
    assert schedule(every="epoch") == 100
    assert schedule(every=0.25) == 0.25  # a fraction of training alone does not shrink
    assert schedule(every="epoch", every_last=5) == lrpet.Shrinking(first=100, last=5, start=0.5)
    assert schedule(every=0.25, every_last=2, shrink_from=0.1) == lrpet.Shrinking(first=0.25, last=2, start=0.1)
    assert schedule(every="epoch", every_last=500) == lrpet.Shrinking(first=100, last=100, start=0.5)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    read_config(recipe)


def test_papers_recipes_project_from_the_start() -> None:
    papers = [read_config(path) for path in RECIPES if path.stem.endswith("-paper")]
    assert {(paper.start, paper.every) for paper in papers} == {(0, "epoch"), (0, 250)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "bce", "label_smoothing": 0.1}, "loss=bce has targets of 0 and 1: leave label_smoothing out"),
        ({"temperature": 2}, "temperature go with a teacher: name one, or leave them out"),
        ({"auto_augment": "rand-m7", "train_size": 16}, "digits lies in memory: leave out train_size, auto_augment,"),
        ({"ema": 1}, "ema=1: "),
    ],
)
def test_options_that_mean_nothing_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config({"data": "digits", "keep": 0.5, **options})


@pytest.mark.parametrize("text", ["- a\n- list\n", "{", "keeep: 0.5\n", "keep: [1]\n"])
def test_bad_recipes(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml|keep"):
        read_config(tmp_path / "recipe.yaml")


#: What lrpet 0.1.0 wrote into a run folder, where these options were left alone.
EARLIER: dict[str, Any] = {
    "model": "resnet20",
    "start": None,
    "macs": 0.4,
    "descent": None,
    "allocate": "auto",
    "layers": [],
    "every": 5,
    "every_last": None,
    "shrink_from": None,
    "project_from": None,
}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, {"start": 0.5}),
        ({"every": "epoch"}, {"start": 0.0}),
        ({"every": 9, "every_last": 3}, {"start": 0.0, "every_last": 3, "shrink_from": 0.5}),
        ({"every": 9, "every_last": 3, "shrink_from": 0.2}, {"start": 0.0, "shrink_from": 0.2}),
        ({"every": 0.5}, {"start": 0.0, "every": 0.5, "every_last": 5, "shrink_from": 0.0}),
        ({"every": 0.5, "every_last": 2, "shrink_from": 0.3}, {"every_last": 2, "shrink_from": 0.3}),
        ({"every": 5, "project_from": 0}, {"start": 0.0}),
        ({"every": "epoch", "project_from": 0.75}, {"start": 0.75}),
        ({"start": "runs/dense"}, {"start": 0.5, "weights": Path("runs/dense")}),
        ({"layers": ["*.mlp.*"]}, {"include": ("*.mlp.*",)}),
        ({"descent": 0.6}, {"allocate": "uniform"}),
        ({"shrink_from": 0.3}, {"shrink_from": 0.5}),
    ],
)
def test_a_run_of_the_earlier_version_is_read_as_it_was_meant(
    tmp_path: Path, said: dict[str, Any], meant: dict[str, Any]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**EARLIER, **said}))
    config = read_config(path)
    assert {name: getattr(config, name) for name in meant} == meant
    assert type(config.start) is float
    path.write_text(config.to_yaml())
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("recipe", "meant"),
    [
        ({"keep": 0.5, "layers": ["conv1"], "every": "epoch"}, {"include": ("conv1",), "start": 0.0}),
        ({"keep": 0.5, "start": "runs/dense"}, {"weights": Path("runs/dense"), "start": 0.5}),
        ({"keep": 0.5, "every": "epoch"}, {"start": 0.5}),  # no old name: today's defaults
        ({"keep": 0.5, "start": "0.2"}, {"start": 0.2}),
    ],
)
def test_a_recipe_with_old_names(tmp_path: Path, recipe: dict[str, Any], meant: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    config = read_config(path)
    assert {name: getattr(config, name) for name in meant} == meant
    assert read_config(path, {"start": 7}).start == 7


@pytest.mark.parametrize(
    "mixed", [{"project_from": 0, "start": 0.5}, {"layers": ["a"], "include": ["b"]}, {"layers": ["a"], "weights": "w"}]
)
def test_old_names_beside_new_ones_are_refused(tmp_path: Path, mixed: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"keep": 0.5, **mixed}))
    with pytest.raises(ValueError, match=r"names of lrpet 0\.1\.0 stand beside newer ones"):
        read_config(path)


def test_recipes_of_lrpet_are_found_by_name_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10-vit", "cifar10-vit.yaml", "recipes/cifar10-vit.yaml"):
        assert read_config(name).model == read_config(RECIPES[0].with_name("cifar10-vit.yaml")).model
    (tmp_path / "cifar10-vit.yaml").write_text("{model: resnet8, data: digits, keep: 0.5, epochs: 1}")
    assert read_config("cifar10-vit.yaml").model == "resnet8"
    with pytest.raises(
        FileNotFoundError, match=r"no recipe other/cifar10-vit\.yaml, and lrpet has cifar10-resnet20-cpu, "
    ):
        read_config("other/cifar10-vit.yaml")
