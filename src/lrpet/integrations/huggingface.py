"""Hugging Face: a callback for `Trainer`, and folders that hold a compact model of theirs with its config.

projector = lrpet.Projector(model, plan)                     # the length of the training comes from the trainer
trainer = Trainer(model, args, callbacks=[ProjectorCallback(projector)], ...)
trainer.train()
save_pretrained(projector.finish(), "compact/")
compact = from_pretrained("compact/")                                    # or the name of a repository on the hub
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import transformers
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrpet.compact.card import model_card
from lrpet.compact.files import CARD, load, read_manifest, save
from lrpet.planning.plan import Plan
from lrpet.projecting.projector import Projector

STATE = "lrpet_projector.json"


class ProjectorCallback(TrainerCallback):
    """Projects after the optimizer steps at which the projector says so, and once more when training ends.

    The projector's count of steps goes into every checkpoint and comes back with it; the bases for its warm start do not: the
    first projection after a resumption starts afresh. A projector without `total_steps` takes the trainer's. With
    `load_best_model_at_end`, a model from before the first projection may be picked: a warning says so.

    Args:
        projector: Made for the model that the trainer gets.
    """

    def __init__(self, projector: Projector) -> None:
        self.projector = projector

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Continue from the step that the trainer continues from."""
        if self.projector.total_steps is None and not self.projector.steps:
            self.projector.total_steps = state.max_steps
        saved = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / STATE
        if state.global_step and saved.is_file():
            self.projector.load_state_dict(json.loads(saved.read_text(encoding="utf-8")))
        self.projector.steps = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count an optimizer step; what a projection pruned goes into the trainer's history."""
        if (report := self.projector.step()) is not None:
            entry = {"step": state.global_step, "lrpet/pruned": report.pruned}
            state.log_history.append(entry if state.epoch is None else {"epoch": state.epoch, **entry})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Add what the latest projection pruned."""
        if logs is not None and self.projector.last is not None:
            logs["lrpet/pruned"] = self.projector.last.pruned

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the projector's state into the checkpoint, in process 0."""
        if not state.is_world_process_zero:
            return
        saved = {key: value for key, value in self.projector.state_dict().items() if key != "bases"}
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        (folder / STATE).write_text(json.dumps(saved), encoding="utf-8")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Project, so that the weights are low-rank."""
        self.projector.settle()


def save_pretrained(compact: nn.Module, folder: str | os.PathLike[str], **options: Any) -> Path:
    """Save a compact transformers model by `lrpet.save`, with its config beside it.

    Raises ValueError for a model of another library, and as `lrpet.save` does.
    """
    if not isinstance(compact, PreTrainedModel):
        raise ValueError(f"{type(compact).__name__} is not a transformers model: use lrpet.save")
    written = save(compact, folder, **options)
    compact.config.save_pretrained(written)
    usage = 'from lrpet.integrations.huggingface import from_pretrained\n\ncompact = from_pretrained("this folder")'
    (written / CARD).write_text(
        model_card(cast(Plan, compact.lrpet_plan), name=type(compact).__name__, usage=usage), encoding="utf-8"
    )
    return written


def from_pretrained(name: str | os.PathLike[str], **options: Any) -> nn.Module:
    """Read a folder that `save_pretrained` wrote, or a repository on the hub.

    Options and errors are those of `lrpet.load`.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(os.fspath(name)))
    kind = read_manifest(folder)["class"].rpartition(".")[2]
    model_class = getattr(transformers, kind, None)
    if model_class is None:
        raise ValueError(f"{folder} holds a {kind}, which transformers does not have: use lrpet.load with a model")
    config = transformers.AutoConfig.from_pretrained(folder)
    return load(folder, model_class(config), **options)
