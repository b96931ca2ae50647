"""Runs on text: what they leave, that they resume, who reads their networks, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import lrpet
import lrpet.integrations.huggingface
from lrpet import models
from lrpet.cli import main
from lrpet.latency.results import Bench
from lrpet.models import Source
from lrpet.train.config import Config, make_config, read_config
from lrpet.train.data.text import load_text
from lrpet.train.run import evaluate
from old_torch import exporting
from runs import killed_at, lines, run, save_tokenizer, weights

RECIPE = Path(__file__).parents[2] / "recipes" / "stdlib-gpt.yaml"
GPT2_ARGS = {"n_embd": 32, "n_layer": 2, "n_head": 2}
GPT2 = {"model": "hf:gpt2", "model_args": GPT2_ARGS}
LLAMA_ARGS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {"model": "hf:llama", "model_args": LLAMA_ARGS}
VERSES = "".join(f"{number} green bottles hanging on the wall, and one should fall.\n" for number in range(300))


@pytest.fixture(scope="module")
def verses(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "verses.txt"
    path.write_text(VERSES)
    return f"text:{path}"


def spoken(folder: Path, verses: str, **changes: Any) -> Config:
    plain: dict[str, Any] = {
        "data": verses, "context": 32, "batch_size": 16, "epochs": 2, "macs": 0.6, "optimizer": "adamw", "lr": 3e-3,
        "every": "epoch", "device": "cpu", "seed": 3, "output": folder,
    }  # fmt: skip
    return make_config({**plain, **GPT2, **changes})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, verses: str) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "told"
    run(spoken(folder, verses))
    return folder


@pytest.mark.parametrize(("asked", "expected"), [(None, False), (True, True)])
def test_projections_hand_energy_over_only_if_asked_to(
    asked: bool | None, expected: bool, tmp_path: Path, verses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[lrpet.Projector] = []

    class Watched(lrpet.Projector):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(lrpet, "Projector", Watched)
    run(spoken(tmp_path / "run", verses, epochs=1, energy_transfer=asked))
    assert [projector.energy_transfer for projector in made] == [expected]


def test_a_run_on_text_learns_and_says_its_perplexity(told: Path, verses: str) -> None:
    summary = json.loads((told / "summary.json").read_text())
    epochs = [line for line in lines(told) if line["kind"] == "epoch"]
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"] < math.log(256)
    assert all(line["val_perplexity"] == pytest.approx(math.exp(line["val_loss"])) for line in epochs)
    assert epochs[0]["tokens_per_second"] * epochs[0]["seconds"] == pytest.approx(epochs[0]["step"] * 16 * 32)
    assert summary["test_perplexity"] == pytest.approx(math.exp(summary["test_loss"]))
    assert summary["test_perplexity"] < 25  # letters of one alphabet, at the least
    assert 0 < summary["test_accuracy"] < 1
    assert summary["macs"] <= 0.6 * summary["macs_dense"]
    assert f"{summary['test_perplexity']:.3f}" in (told / "summary.txt").read_text()
    assert "8 windows" in (told / "summary.txt").read_text()
    assert min(summary["cpu_milliseconds"], summary["cpu_milliseconds_of_8"]) > 0
    assert lrpet.read_metadata(told / "compact") == load_text(verses, context=32).metadata


def test_the_summary_is_of_the_network_on_disk(told: Path) -> None:
    summary = json.loads((told / "summary.json").read_text())
    tested, held_out = evaluate(told), evaluate(told, part="validation", batch_size=5)
    assert tested.loss == pytest.approx(summary["test_loss"], rel=1e-5)
    assert tested.accuracy == pytest.approx(summary["test_accuracy"])
    assert held_out.perplexity == pytest.approx(summary["val_perplexity"], rel=1e-5)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("changes", [{}, {**LLAMA, "precision": "bf16"}, {"method": "dense", "macs": None}])
def test_both_readers_get_the_same_network(tmp_path: Path, verses: str, told: Path, changes: dict[str, Any]) -> None:
    folder = told if not changes else tmp_path / "run"
    if changes:
        run(spoken(folder, verses, epochs=1, **changes))
    auto: Any = AutoModelForCausalLM
    by_lrpet: Any = lrpet.load(folder)
    by_transformers: Any = auto.from_pretrained(folder / "compact")
    tokens = torch.arange(64).view(2, 32)
    with torch.no_grad():
        found = [model(tokens).logits for model in (by_lrpet, by_transformers)]
    assert torch.equal(*found)
    assert type(by_lrpet) is type(by_transformers)
    card = (folder / "compact" / "README.md").read_text()
    assert 'lrpet.load("this folder")' in card
    assert "import lrpet.integrations.huggingface" in card
    assert by_transformers.generate(tokens[:1, :4], max_new_tokens=3, do_sample=False).shape[1] <= 7
    assert by_transformers.generation_config.eos_token_id == 0


@pytest.mark.usefixtures("untimed")
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, verses: str, told: Path) -> None:
    """Dropout draws random numbers in every step of GPT-2."""
    steps = next(line["step"] for line in lines(told) if line["kind"] == "epoch")
    with killed_at(steps + 3):
        run(spoken(tmp_path / "cut", verses))
    run(spoken(tmp_path / "cut", verses), resume=True)
    whole, cut = weights(told), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.usefixtures("untimed")
def test_options_train_on_text(tmp_path: Path, verses: str) -> None:
    """A moving average, parts of a step, and ranks by what they are worth to the loss."""
    options = {
        "ema": 0.9,
        "accumulate": 2,
        "allocate": "sensitivity",
        "holdout": 0.0,
        "label_smoothing": 0.1,
        **LLAMA,
        "calibration": 4,
    }
    summary = run(spoken(tmp_path / "run", verses, **options))
    assert summary["val_loss"] is None
    assert summary["test_loss"] < math.log(256)
    assert summary["budget"].startswith("macs=0.6 (most worth")


@pytest.mark.usefixtures("untimed")
def test_a_run_with_a_tokenizer_is_scored_with_it(tmp_path: Path, verses: str) -> None:
    save_tokenizer(tmp_path / "words", "<end>", "green", "bottles", "wall", "fall", "?")
    tokens = {"tokenizer": str(tmp_path / "words"), "context": 12, "batch_size": 4, "method": "dense", "macs": None}
    summary = run(spoken(tmp_path / "run", verses, epochs=1, **tokens))
    assert evaluate(tmp_path / "run").loss == pytest.approx(summary["test_loss"], rel=1e-5)
    network: Any = lrpet.load(tmp_path / "run")
    assert (network.config.vocab_size, network.config.eos_token_id) == (6, 0)


@pytest.mark.usefixtures("untimed")
def test_the_recipe_of_the_standard_library(tmp_path: Path, verses: str) -> None:
    """Its own network on a short text, in one epoch."""
    given = read_config(RECIPE)
    assert (given.data, given.context, given.macs) == ("text:stdlib", 128, 0.5)
    changes = {"data": verses, "epochs": 1, "device": "cpu", "output": tmp_path / "run", "compile": False}
    summary = run(read_config(RECIPE, changes))
    assert 0.5e6 < summary["params_dense"] < 2e6
    assert summary["macs"] <= 0.5 * summary["macs_dense"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.2, "loss": "bce"}, r"leave out mixup, loss for data=text:.*: these options are for images alone"),
        ({"teacher": "runs/x", "channels_last": True}, "leave out teacher, channels_last for data=text:"),
        (
            {"model": "resnet20"},
            "model=resnet20 cannot be trained on data=text:.*: language models, hf:NAME, go with text",
        ),
        ({"data": "digits"}, "model=hf:gpt2 cannot be trained on data=digits: "),
        (
            {"data": "digits", "model": "resnet20", "tokenizer": "gpt2"},
            "leave out context, tokenizer for data=digits: these options are for text alone",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, verses: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        spoken(tmp_path / "run", verses, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "hf:gpt3"}, r"hf:gpt3 makes no language model .* Did you mean hf:gpt"),
        ({"batch_size": 5000}, "batch_size=5000 is more than the [0-9]+ training windows of text:"),
        (
            {"model_args": {**GPT2_ARGS, "n_positions": 16}},
            "hf:gpt2 cannot take windows of context=32 .* lower the context",
        ),
        ({**LLAMA, "model_args": {**LLAMA_ARGS, "vocab_size": 99}}, "tells 99 tokens apart, and text:.* has 256"),
        ({"model_args": {"trust_remote_code": True}}, "hf:gpt2 takes no trust_remote_code"),
        ({"context": 100000}, "each part needs more than context=100000 tokens"),
    ],
)
def test_a_failed_start_leaves_nothing(tmp_path: Path, verses: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(spoken(tmp_path / "run", verses, **changes))
    assert not (tmp_path / "run").exists()


def test_networks_of_images_and_of_text_are_not_scored_on_each_others_data(told: Path, finished: Path) -> None:
    with pytest.raises(ValueError, match=r"was trained on text:.*, and cannot be scored on digits"):
        evaluate(told, data="digits")
    with pytest.raises(ValueError, match=r"was trained on digits, and cannot be scored on text:stdlib"):
        evaluate(finished, data="text:stdlib")


@exporting
def test_commands_take_the_folder_of_a_run_on_text(
    told: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((told / "summary.json").read_text())
    assert main(["eval", str(told)]) == 0
    assert f"perplexity {summary['test_perplexity']:.3f}" in capsys.readouterr().out
    json_file = tmp_path / "bench.json"
    assert main(["bench", str(told), "--seconds", "0.001", "--batch-sizes", "1", "3", "--json", str(json_file)]) == 0
    assert {(row.network, row.batch_size) for row in Bench.load(json_file).rows} == {
        (network, size) for network in ("dense", "compact") for size in (1, 3)
    }
    assert main(["bench", str(told), str(finished), "--seconds", "0.001"]) == 2
    assert "does not run on windows of tokens of shape 1×32" in capsys.readouterr().err
    assert main(["export", str(told), str(tmp_path / "compact.pt2"), "--images", "10"]) == 0
    assert "on 10 windows" in capsys.readouterr().out
    exported, tokens = torch.export.load(tmp_path / "compact.pt2").module(), torch.arange(96).view(3, 32)
    with torch.no_grad():
        logits = exported(input_ids=tokens)["logits"]
        torch.testing.assert_close(logits, lrpet.load(told)(tokens).logits)


@pytest.mark.parametrize(
    "arguments",
    [["plan", "hf:llama", "--macs", "0.5"], ["bench", "hf:llama"], ["profile-latency", "hf:llama", "t.json"]],
)
def test_language_models_by_name_are_refused_before_they_are_made(arguments: list[str], refused: Any) -> None:
    """A llama of its own size has seven thousand million weights."""
    refused(arguments, "hf:llama is a language model, and this command makes networks of images alone")


def test_a_network_from_a_folder_is_made_again_without_it(tmp_path: Path) -> None:
    """What is saved names the architecture and all its values; it never names a folder."""
    first: Any = models.create("hf:llama", num_classes=50, arguments=LLAMA_ARGS)
    first.bfloat16().save_pretrained(tmp_path)
    trained: Any = models.create(f"hf:{tmp_path}", pretrained=True)
    assert torch.equal(trained.lm_head.weight, first.lm_head.weight.float())
    assert (trained.lrpet_source.name, trained.lrpet_source.num_classes) == ("hf:llama", 50)
    made: Any = models.create(f"hf:{tmp_path}", num_classes=60, arguments={"rms_norm_eps": 1e-3})
    assert made.lrpet_source.name == "hf:llama"
    again: Any = Source.from_dict(json.loads(json.dumps(made.lrpet_source.to_dict()))).build()
    circumstances = {"_name_or_path": "", "architectures": None, "dtype": None}
    assert again.config.to_dict() | circumstances == made.config.to_dict() | circumstances
    assert {weight.dtype for network in (trained, made, again) for weight in network.parameters()} == {torch.float32}
    assert (again.config.vocab_size, again.config.rms_norm_eps, again.config.hidden_size) == (60, 1e-3, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "hf:some/folder"}, "must name an architecture, and no folder; got 'hf:some/folder'"),
        ({"arguments": {"trust_remote_code": True}}, "must not name files or weights to load; got trust_remote_code"),
        ({"arguments": {"text_config": {"_attn_implementation": "x/y"}}}, "got _attn_implementation"),
    ],
)
def test_a_source_loads_no_code(changes: dict[str, Any], message: str) -> None:
    plain = {"name": "hf:gpt2", "num_classes": 256, "in_channels": 1, "arguments": {}}
    with pytest.raises(ValueError, match=message):
        Source.from_dict({**plain, **changes})
