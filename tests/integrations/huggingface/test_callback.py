"""`LrpetCallback` in short trainings: projections fall due, checkpoints resume, the end is low-rank and compact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import tokenizers
import torch
import transformers
from accelerate.state import AcceleratorState
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

import lrpet
from lrpet.integrations.huggingface import LrpetCallback
from old_torch import training_by_trl
from tiny_transformers import TOKENS, dense, logits, sequences

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(folder: Path, callback: LrpetCallback, model: Any, *, resume: bool = False, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        **{"max_steps": 8, "per_device_train_batch_size": 4, "save_steps": 4, "logging_steps": 1, **options},
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=sequences(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    AcceleratorState._reset_state(reset_partial_state=True)
    return trainer


def projecting(model: Any, **options: Any) -> lrpet.Projector:
    return lrpet.Projector(model, lrpet.plan(model, TOKENS, macs=0.5), **{"start": 0, "every": 2, **options})


def assert_low_rank(model: Any, plan: lrpet.Plan) -> None:
    assert plan.ranks
    for name, layer in plan.bind(model).items():
        values = torch.linalg.svdvals(layer.weight.detach().float())
        assert (values > 1e-3 * values[0]).sum() <= plan.ranks[name]


def test_checkpoints_resume(tmp_path: Path) -> None:
    model = dense("gpt2")
    callback = LrpetCallback(projecting(model))
    trainer = trained(tmp_path / "whole", callback, model)
    assert callback.projector.steps == 8
    assert_low_rank(model, callback.projector.plan)
    assert any("lrpet/pruned" in entry for entry in trainer.state.log_history)
    saved = json.loads((tmp_path / "whole" / "checkpoint-4" / "lrpet_projector.json").read_text())
    assert saved["steps"] == 4

    first = dense("gpt2")
    trained(tmp_path / "part", LrpetCallback(projecting(first)), first, max_steps=4)
    resumed = dense("gpt2")
    callback = LrpetCallback(projecting(resumed))
    trainer = trained(tmp_path / "part", callback, resumed, resume=True)
    assert trainer.state.global_step == callback.projector.steps == 8
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"gradient_accumulation_steps": 2}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str
)
def test_a_budget_is_enough(options: dict[str, Any], tmp_path: Path) -> None:
    """The plan is made with the first example of the training set, whose eight tokens its costs are those of."""
    model = dense("llama")
    callback = LrpetCallback(macs=0.6, multiple_of=1, min_saving=0.0, every=1)
    with pytest.raises(ValueError, match="made when training begins"):
        callback.finish()
    trainer = trained(tmp_path, callback, model, max_steps=4, **options)
    projector = callback.projector
    assert (projector.total_steps, projector.start, projector.steps) == (4, 2, 4)
    assert projector.plan.macs_dense == lrpet.plan(dense("llama"), TOKENS, keep=1.0).macs_dense
    assert_low_rank(model, projector.plan)
    entries = [entry for entry in trainer.state.log_history if "lrpet/pruned" in entry]
    assert len({entry["step"] for entry in entries}) >= 3
    compact: Any = callback.finish()
    compact.save_pretrained(tmp_path / "compact")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "compact")
    assert torch.equal(logits(loaded, "llama"), logits(compact.eval(), "llama"))
    torch.testing.assert_close(logits(loaded, "llama"), logits(model.eval(), "llama"), rtol=0.01, atol=0.01)


def test_a_plan_and_its_length_of_training(tmp_path: Path) -> None:
    model = dense("gpt2")
    callback = LrpetCallback(lrpet.plan(model, TOKENS, macs=0.5), start=0.75, every=2)
    trained(tmp_path, callback, model, max_steps=4)
    projector = callback.projector
    assert (projector.total_steps, projector.start, projector.steps) == (4, 3, 4)
    assert not projector.energy_transfer
    asked = LrpetCallback(projector.plan, every=1, energy_transfer=True)
    trained(tmp_path / "asked", asked, dense("gpt2"), max_steps=2)
    assert asked.projector.energy_transfer


@training_by_trl
def test_trl_trains_the_full_size_model_and_the_compact_one(tmp_path: Path) -> None:
    """SFTTrainer puts a forward on the model that holds the model itself."""
    words = {f"w{i}": i for i in range(47)} | {"<pad>": 47, "<eos>": 48, "<unk>": 49}
    words_only = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    words_only.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast: Any = transformers.PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=words_only, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    texts = datasets.Dataset.from_dict(
        {"text": [" ".join(f"w{(7 * i + j) % 47}" for j in range(7)) for i in range(16)]}
    )
    arguments = SFTConfig(
        str(tmp_path), max_steps=4, save_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        disable_tqdm=True, bf16=False, gradient_checkpointing=True,
    )  # fmt: skip

    def fine_tuned(model: Any, *callbacks: LrpetCallback) -> None:
        SFTTrainer(
            model, args=arguments, train_dataset=texts, processing_class=tokenizer, callbacks=[*callbacks]
        ).train()
        AcceleratorState._reset_state(reset_partial_state=True)

    callback = LrpetCallback(macs=0.6, multiple_of=1, min_saving=0.0, every=1)
    fine_tuned(dense("llama"), callback)
    compact: Any = callback.finish()
    compact.save_pretrained(tmp_path / "compact")
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "compact")
    assert torch.equal(logits(loaded, "llama"), logits(compact.eval(), "llama"))
    fine_tuned(loaded)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert torch.equal(logits(again, "llama"), logits(loaded.eval(), "llama"))
    assert not torch.equal(logits(again, "llama"), logits(compact, "llama"))


def test_a_best_model_from_before_the_first_projection_is_told() -> None:
    model = dense("gpt2")
    callback = LrpetCallback(lrpet.Projector(model, lrpet.plan(model, TOKENS, macs=0.5), total_steps=8))
    arguments: Any = None
    with pytest.warns(UserWarning, match="choose among those from step 4 on"):
        callback.on_train_end(arguments, transformers.TrainerState(), transformers.TrainerControl())


def test_what_it_takes() -> None:
    plan = lrpet.plan(dense("gpt2"), TOKENS, macs=0.5)
    with pytest.raises(ValueError, match="one of them"):
        LrpetCallback()
    with pytest.raises(ValueError, match="one of them"):
        LrpetCallback(plan, macs=0.5)
    with pytest.raises(ValueError, match="give every to the projector itself"):
        LrpetCallback(projecting(dense("gpt2")), every=2)
    with pytest.raises(TypeError, match=r"neither lrpet\.plan nor lrpet\.Projector takes mac"):
        LrpetCallback(mac=0.5)
    wrong: Any = "plan.json"
    with pytest.raises(ValueError, match="a plan, a projector or a budget; got str"):
        LrpetCallback(wrong)
