"""Config: everything a training run depends on, as one frozen, validated value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lrpet.projecting.schedule import Shrinking

#: What compression may be told to come to.
BUDGETS = ("keep", "macs", "params", "bytes")
GROUPS = ("network and data", "compression", "optimisation", "machine", "run")


def _field(group: str, default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


class Config(BaseModel):
    """A run, whole: two runs with equal configs on the same machine give the same network."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = _field(
        "network and data", "resnet20", "resnet8/20/32/56/110, vgg16_bn, googlenet, timm:NAME, torchvision:NAME"
    )
    model_args: dict[str, Any] = _field(
        "network and data",
        {},
        "arguments for the library's constructor (timm:, torchvision:), such as '{img_size: 32}'",
    )
    data: str = _field("network and data", "digits", "digits, cifar10, fashion-mnist, or folder:PATH")
    data_dir: Path | None = _field("network and data", None, "where the data set's files are, or are downloaded to")
    image_size: int | None = _field("network and data", None, "for folder data: side in pixels (default 224)", ge=1)
    pretrained: bool = _field("network and data", False, "start from the library's weights (timm:, torchvision:)")
    start: Path | None = _field(
        "network and data",
        None,
        "start from weights of this very network: a safetensors file, or a folder of `lrpet.save` or of a dense run",
    )
    holdout: float = _field("network and data", 0.1, "fraction of the training set kept for validation", ge=0, lt=1)
    crop_padding: int | None = _field(
        "network and data", None, "random crop after this padding (default: the data's usual)", ge=0
    )
    flip: bool | None = _field("network and data", None, "random horizontal flip (default: the data's usual)")
    mixup: float = _field("network and data", 0.0, "mix pairs of images; parameter of the beta distribution", ge=0)
    cutmix: float = _field("network and data", 0.0, "paste boxes of other images; likewise", ge=0)
    random_erasing: float = _field("network and data", 0.0, "probability of erasing a box of an image", ge=0, le=1)
    repeats: int = _field("network and data", 1, "differently augmented copies of an image in a batch", ge=1)

    method: Literal["lrpet", "dense"] = _field(
        "compression", "lrpet", "train a low-rank network, or the dense one as it is"
    )
    keep: float | None = _field("compression", None, "budget: fraction of every layer's rank to keep", gt=0, le=1)
    macs: float | None = _field(
        "compression", None, "budget: multiply-adds, their number or fraction of the dense", gt=0
    )
    params: float | None = _field("compression", None, "budget: parameters, likewise", gt=0)
    bytes: float | None = _field("compression", None, "budget: bytes of all parameters and buffers, likewise", gt=0)
    descent: float | None = _field(
        "compression",
        None,
        "let ranks fall from full to the budget's, at the projections that come by this fraction of training",
        gt=0,
        le=1,
    )
    descent_shape: Literal["cubic", "linear", "step"] = _field("compression", "cubic", "how they fall")
    allocate: Literal["auto", "uniform", "energy", "threshold", "sensitivity"] = _field(
        "compression",
        "auto",
        "divide the budget among the layers: equally, or at the first projection (with descent: on the way) by the weights, or "
        "by what they do to the loss; auto: energy, if projections begin in the second half of training, else uniform",
    )
    min_rank: int = _field("compression", 1, "no lower rank than this", ge=1)
    max_rank: int | None = _field("compression", None, "no higher rank than this", ge=1)
    multiple_of: int = _field("compression", 1, "only ranks that are multiples of this", ge=1)
    overrides: dict[str, Any] = _field(
        "compression",
        {},
        "for layers with names like a pattern, a rank, a fraction of it, or null to stay dense: '{conv1: null, layer3.*: 0.3}'",
    )
    plan: Path | None = _field("compression", None, "ranks from this plan file, instead of a budget")
    layers: tuple[str, ...] = _field(
        "compression", (), "factorise only layers whose names are like one of these patterns, such as '*.mlp.*'"
    )
    every: int | float | Literal["epoch"] = _field(
        "compression", 5, "steps between projections, at first: a number, a fraction of all steps, or 'epoch'"
    )
    every_last: int | None = _field(
        "compression",
        None,
        "shrink that interval to so many steps by the end (default: to 5 if it is a fraction)",
        ge=1,
    )
    shrink_from: float | None = _field(
        "compression",
        None,
        "fraction of training from which it shrinks (default: 0 if it is a fraction, else 0.5)",
        ge=0,
        lt=1,
    )
    project_from: float | None = _field(
        "compression",
        None,
        "fraction of training before which nothing is projected (default: 0.5 if every is a constant number of steps, else 0)",
        ge=0,
        lt=1,
    )
    energy_transfer: bool = _field("compression", True, "hand the pruned energy to the kept singular values")
    rectify: bool = _field("compression", True, "fold batch norms in when projecting")
    tail_scale: float = _field("compression", 0.0, "multiply pruned singular values by this instead of 0", ge=0, lt=1)
    solver: Literal["auto", "eigh", "svd"] = _field(
        "compression", "auto", "how leading subspaces are found: warm started where possible, or afresh each time"
    )
    factorize_all: bool = _field("compression", False, "factorise even where that saves nothing")
    reestimate_bn: bool = _field(
        "compression", True, "re-estimate batch-norm statistics of the compact network on training images"
    )

    epochs: int = _field("optimisation", 30, "passes over the training set", ge=1)
    batch_size: int = _field("optimisation", 128, "images a step", ge=1)
    optimizer: Literal["sgd", "adamw"] = _field("optimisation", "sgd", "SGD with momentum, or AdamW")
    lr: float = _field("optimisation", 0.1, "learning rate (the peak, for one-cycle)", gt=0)
    momentum: float = _field("optimisation", 0.9, "of SGD", ge=0, lt=1)
    nesterov: bool = _field("optimisation", False, "Nesterov momentum")
    weight_decay: float = _field("optimisation", 1e-4, "L2 (SGD) or decoupled (AdamW)", ge=0)
    label_smoothing: float = _field("optimisation", 0.0, "of the cross-entropy", ge=0, lt=1)
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = _field(
        "optimisation", "one-cycle", "of the learning rate"
    )
    milestones: tuple[int, ...] = _field("optimisation", (), "epochs at which the step schedule divides the rate by 10")
    warmup_epochs: int = _field("optimisation", 0, "epochs of linear warm-up (not with one-cycle)", ge=0)
    clip_grad: float | None = _field(
        "optimisation", None, "scale gradients down to at most this norm, all together", gt=0
    )

    device: Literal["auto", "cpu", "cuda"] = _field("machine", "auto", "where to train")
    precision: Literal["no", "bf16", "fp16"] = _field("machine", "no", "autocast to this type")
    channels_last: bool = _field("machine", False, "NHWC memory layout")
    compile: bool = _field("machine", False, "torch.compile the network")
    num_workers: int = _field("machine", 2, "data-loading processes, for folder data", ge=0)

    seed: int = _field("run", 0, "of everything random", ge=0)
    output: Path | None = _field("run", None, "run folder (default runs/MODEL-DATA-METHOD-SEED)")
    checkpoint_every: int = _field("run", 1, "epochs between checkpoints", ge=1)
    log_with: tuple[str, ...] = _field(
        "run", ("tensorboard",), "trackers of accelerate to log to beside metrics.jsonl: tensorboard, wandb, mlflow, …"
    )

    @field_validator("model_args", "overrides", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return read_mapping(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        given = [*budgets, *(["plan"] if self.plan is not None else [])]
        if self.method == "lrpet" and (not given or ({"keep", "plan"} & set(given) and len(given) > 1)):
            raise ValueError(
                "method lrpet takes keep, or a plan, or budgets of macs, params and bytes; "
                f"got {' and '.join(given) or 'none'}"
            )
        if self.allocator != "uniform" and (self.keep is not None or self.plan is not None):
            raise ValueError(
                f"allocate={self.allocate} divides a budget of macs, params or bytes: give one in place of "
                f"{'keep' if self.plan is None else 'the plan'}"
            )
        if self.allocator != "uniform" and self.descent is None and not self._untouched:
            raise ValueError(
                f"allocate={self.allocate} looks at trained weights, but nothing is trained when projections begin: give "
                "project_from, or descent, a fraction of the training by which the ranks are settled"
            )
        limits = ("min_rank", "max_rank", "multiple_of", "overrides", "layers", "factorize_all")
        limiting = [name for name in limits if getattr(self, name) != type(self).model_fields[name].default]
        if self.plan is not None and limiting:
            raise ValueError(f"a plan says the rank of every layer itself: leave out {', '.join(limiting)}")
        if self.method == "dense" and given:
            raise ValueError(f"method dense takes no budget; got {' and '.join(given)}")
        if not isinstance(self.every, str) and not (
            self.every >= 1 if isinstance(self.every, int) else 0 < self.every < 1
        ):
            raise ValueError(f"every={self.every} must be at least 1, a fraction between 0 and 1, or 'epoch'")
        if self.every_last is not None and isinstance(self.every, int) and self.every_last > self.every:
            raise ValueError(f"every_last={self.every_last} must be at most every={self.every}: intervals shrink")
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ValueError("one-cycle has a warm-up of its own: leave warmup_epochs at 0, or choose another schedule")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("milestones go with schedule: step, and only with it")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}")
        return self

    def projection_schedule(self, steps_per_epoch: int) -> int | Shrinking:
        """When to project, as `lrpet.Projector` takes it."""
        total, last, start = self.epochs * steps_per_epoch, self.every_last, self.shrink_from
        if isinstance(self.every, float):
            first = max(1, int(self.every * total))
            last, start = 5 if last is None else last, 0.0 if start is None else start
        else:
            first = steps_per_epoch if self.every == "epoch" else self.every
        if last is None:
            return first
        return Shrinking(first=first, last=min(last, first), start=0.5 if start is None else start)

    def projection_start(self, steps_per_epoch: int) -> int:
        """The first step at which to project, as `lrpet.Projector` takes it."""
        return int(self._untouched * self.epochs * steps_per_epoch)

    @property
    def allocator(self) -> Literal["uniform", "energy", "threshold", "sensitivity"]:
        """How the budget is divided."""
        if self.allocate != "auto":
            return self.allocate
        divisible = any(getattr(self, name) is not None for name in BUDGETS if name != "keep")
        return "energy" if divisible and self._untouched >= 0.5 and self.descent is None else "uniform"

    @property
    def _untouched(self) -> float:
        """The fraction of the training before which nothing is projected."""
        if self.project_from is not None:
            return self.project_from
        return 0.5 if isinstance(self.every, int) and self.every_last is None else 0.0

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.output is not None:
            return self.output
        name = "-".join([self.model, self.data, self.method, str(self.seed)])
        return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)

    def to_yaml(self) -> str:
        """This config as YAML, which `read_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def read_mapping(text: str) -> dict[str, Any]:
    """What a YAML text such as '{conv1: null, layer3.*: 0.3}' says. Raises ValueError if it is none, or no mapping."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{text!r} is not YAML ({' '.join(str(error).split())}); quote names with an asterisk"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"{text!r} is no mapping, such as '{{conv1: null, layer3.*: 0.3}}'")
    return values


def make_config(values: Mapping[str, Any]) -> Config:
    """A config of `values`; the rest are defaults. Raises ValueError that names each bad option and says what it takes."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError("\n".join(_explain(detail) for detail in error.errors())) from None


def read_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """The config in a YAML file, with `overrides` over it. Raises FileNotFoundError, or ValueError as `make_config` does."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options as 'name: value' lines, not a {type(values).__name__}")
    return make_config({**values, **(overrides or {})})


def _explain(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"][:1])
    if detail["type"] == "extra_forbidden":
        return f"there is no option {name!r}; the options are {', '.join(Config.model_fields)}"
    if not name:
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{name}={detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
