"""A callback for `Trainer`, and for trainers that build on it, such as TRL's `SFTTrainer`."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrpet.layers.inputs import Inputs
from lrpet.planning.plain import read_json
from lrpet.planning.plan import Plan
from lrpet.planning.planner import plan as planned
from lrpet.projecting.projector import Projector

STATE = "lrpet_projector.json"
_OF_PROJECTORS = frozenset(inspect.signature(Projector).parameters) - {"model", "plan", "total_steps"}
_OF_PLANS = frozenset(inspect.signature(planned).parameters) - {"model", "example_inputs"} - _OF_PROJECTORS


class LrpetCallback(TrainerCallback):
    """Projects after the optimizer steps at which a projection is due, and once more when training ends.

    The length of the training is the trainer's. What a projection pruned goes into the trainer's history as `lrpet/pruned`.
    The projector's count of steps goes into every checkpoint and comes back with it; the bases for its warm start do not: the
    first projection after a resumption starts afresh. With `load_best_model_at_end`, a model from before the first projection
    may be picked: a warning says so.

    Args:
        what: A plan from `lrpet.plan`, or a `Projector` made for the model that the trainer gets; None with a budget.
        example_inputs: With a budget, what the model is planned with, as for `lrpet.plan`; by default the first example of
            the training set. A model that FSDP shards is better planned before, and the plan given.
        options: A budget and more, as for `lrpet.plan`, such as `macs=0.5`; and what `Projector` takes, such as `every=10`.
            Unlike there, `energy_transfer` is False by default: it did harm in language models trained from scratch.

    Raises:
        ValueError: Neither a plan or projector nor a budget is given, or both.
        TypeError: Neither `lrpet.plan` nor `Projector` takes an option.
    """

    def __init__(self, what: Projector | Plan | None = None, *, example_inputs: Any = None, **options: Any) -> None:
        if unknown := options.keys() - _OF_PLANS - _OF_PROJECTORS:
            raise TypeError(f"neither lrpet.plan nor lrpet.Projector takes {', '.join(sorted(unknown))}")
        self._of_plan = {name: value for name, value in options.items() if name in _OF_PLANS}
        self._of_projector = {name: value for name, value in options.items() if name in _OF_PROJECTORS}
        if (what is None) == (not self._of_plan):
            raise ValueError("give LrpetCallback a plan, a projector, or a budget such as macs=0.5: one of them")
        if isinstance(what, Projector) and self._of_projector:
            raise ValueError(f"give {', '.join(self._of_projector)} to the projector itself")
        if not isinstance(what, Projector | Plan | None):
            raise ValueError(f"LrpetCallback takes a plan, a projector or a budget; got {type(what).__name__}")
        self._plan = what if isinstance(what, Plan) else None
        self._projector = what if isinstance(what, Projector) else None
        self._example_inputs = example_inputs

    @property
    def projector(self) -> Projector:
        """Return the projector. Raises ValueError before training has begun, unless it was given."""
        if self._projector is None:
            raise ValueError("the projector is made when training begins: call trainer.train() first")
        return self._projector

    def finish(self) -> nn.Module:
        """Return the compact model, as `Projector.finish` does; all processes have to call.

        Raises ValueError before training has begun, and as `Projector.finish` does.
        """
        return self.projector.finish()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the projector if it was not given, and continue from the step that the trainer continues from."""
        if self._projector is None:
            plan = self._plan or self._agreed_plan(args, kwargs["model"], kwargs["train_dataloader"])
            self._projector = Projector(kwargs["model"], plan, **{"energy_transfer": False, **self._of_projector})
        projector = self._projector
        if projector.total_steps is None and not projector.steps:
            projector.total_steps = state.max_steps
        saved = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / STATE
        if state.global_step and saved.is_file():
            projector.load_state_dict(read_json(saved.read_bytes()))
        projector.steps = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count an optimizer step; what a projection pruned goes into the trainer's history."""
        if (report := self.projector.step()) is not None:
            entry = {"step": state.global_step, "lrpet/pruned": report.pruned}
            state.log_history.append(entry if state.epoch is None else {"epoch": state.epoch, **entry})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Add what the latest projection pruned."""
        if logs is not None and self._projector is not None and self._projector.last is not None:
            logs["lrpet/pruned"] = self._projector.last.pruned

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

    def _agreed_plan(self, args: TrainingArguments, model: nn.Module, loader: Any) -> Plan:
        """Return a plan for the budget. Among several processes, whose first examples may differ, it is that of process 0."""
        inputs = self._example_inputs
        device = next((parameter.device for parameter in model.parameters()), args.device)
        plan = planned(
            model, Inputs.of(_first(loader) if inputs is None else inputs).map(lambda x: x.to(device)), **self._of_plan
        )
        if args.world_size == 1:
            return plan
        from accelerate.utils import broadcast_object_list

        (text,) = broadcast_object_list([plan.to_json()])
        sent = Plan.from_json(text)
        if sent.request is None or plan.request is None:
            return sent
        return replace(sent, request=replace(sent.request, worths=plan.request.worths))  # a file cannot hold the loss


def _first(loader: Any) -> Any:
    """Return the first example of a loader's data as a batch of one."""
    data = loader.dataset
    example = next(iter(data)) if isinstance(data, IterableDataset) else data[0]
    return loader.collate_fn([example])
