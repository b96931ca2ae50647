"""Every option of recipes and of the command line, declared once. Imports the standard library alone.

`lrpet.train.config.Config` and the options of every command are made from what stands here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lrpet.train.command_options import Commands
from lrpet.train.declaration import Option, option, options_of

#: Options that say what compression is to come to, of which `keep` stands alone.
BUDGETS = ("keep", "macs", "params", "bytes")
#: Options that bound or choose the ranks of a budget, so that they mean nothing where a plan says the ranks.
LIMITS = (
    "min_rank", "max_rank", "multiple_of", "min_saving", "overrides", "include", "exclude", "unfolding", "factorize_all",
)  # fmt: skip


#: Options that say how image files are read, so that they mean nothing for data that lies in memory.
OF_FILES = ("train_size", "test_crop", "interpolation", "auto_augment", "on_corrupt")
#: Options that mean nothing for text.
OF_IMAGES = (
    *OF_FILES, "image_size", "data_dir", "crop_padding", "flip", "mixup", "cutmix", "random_erasing", "repeats", "loss",
    "teacher", "channels_last", "cuda_graphs",
)  # fmt: skip
#: Options that mean nothing for images.
OF_TEXT = ("context", "tokenizer")


class NetworkAndData:
    """What is trained, and on what."""

    model: str = option(
        "resnet20",
        "network: resnet8/20/32/56/110, vgg16_bn, googlenet, timm:NAME or torchvision:NAME; for text hf:NAME, an architecture "
        "of transformers or a folder with a config.json",
    )
    model_args: dict[str, Any] = option(
        {}, "more arguments for the network's constructor (timm:, torchvision:, hf:), such as '{img_size: 32}'"
    )
    data: str = option(
        "digits",
        "data set: digits, cifar10, fashion-mnist, folder:PATH, webdataset:PATH or hf:NAME; text:PATH or text:stdlib",
    )
    data_dir: Path | None = option(None, "folder that holds the files of the data set, or that they are downloaded to")
    context: int = option(256, "tokens in a window of text", ge=1)
    tokenizer: str | None = option(
        None, "name or folder of a tokenizer of transformers, for text (default: tokens are bytes)"
    )
    image_size: int | None = option(None, "side of the images in pixels, for image files (default 224)", ge=1)
    train_size: int | None = option(
        None, "side of the images in pixels while training on image files (default: image_size)", ge=1
    )
    test_crop: float = option(
        0.875, "fraction of an image file's shorter side that is kept for scoring, in the middle", gt=0, le=1
    )
    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "how image files are resized")
    pretrained: bool = option(False, "begin with the library's trained weights (timm:, torchvision:, hf:)")
    weights: Path | None = option(
        None, "begin with trained weights: a safetensors file, a folder of lrpet.save, or the folder of a dense run"
    )
    holdout: float = option(0.1, "fraction of the training set that is held out for validation", ge=0, lt=1)
    crop_padding: int | None = option(
        None, "pixels of padding before a random crop (default: what is usual for the data)", ge=0
    )
    flip: bool | None = option(None, "mirror images at random (default: what is usual for the data)")
    mixup: float = option(0.0, "mix pairs of images; the number is the parameter of a beta distribution", ge=0)
    cutmix: float = option(0.0, "paste boxes of other images; the number is the parameter of a beta distribution", ge=0)
    auto_augment: str | None = option(
        None, "timm's augmentation of image files, such as rand-m7-mstd0.5-inc1, augmix-m3-w3 or original"
    )
    random_erasing: float = option(0.0, "probability of erasing a box of an image", ge=0, le=1)
    repeats: int = option(1, "differently augmented copies of an image in a batch", ge=1)
    on_corrupt: Literal["error", "skip"] = option(
        "error",
        "what becomes of image files that cannot be decoded: stop and name the file, or leave them out, named and counted",
    )


class Compression:
    """How small the network becomes, and how."""

    method: Literal["lrpet", "dense"] = option("lrpet", "train a low-rank network, or the dense network as it is")
    keep: float | None = option(None, "budget: fraction of every layer's rank to keep", gt=0, le=1)
    macs: float | None = option(None, "budget: multiply-adds, a fraction of the dense network's or their number", gt=0)
    params: float | None = option(None, "budget: parameters, a fraction of the dense network's or their number", gt=0)
    bytes: float | None = option(
        None, "budget: bytes of all parameters and buffers, a fraction of the dense network's or their number", gt=0
    )
    allocate: Literal["auto", "uniform", "energy", "threshold", "sensitivity"] = option(
        "auto",
        "how the budget is divided among the layers: in equal fractions (uniform); by the weights' energy at the first "
        "projection (energy, threshold); by what ranks are worth to the loss (sensitivity); or by energy where batch norms "
        "follow layers and projections begin in the second half of training, else uniformly (auto)",
    )
    descent: float | None = option(
        None, "let ranks fall from full to the budget's; the number is the fraction of training that takes", gt=0, le=1
    )
    descent_shape: Literal["cubic", "linear", "step"] = option("cubic", "the curve along which ranks fall")
    min_rank: int = option(1, "lowest rank of a layer", ge=1)
    max_rank: int | None = option(None, "highest rank of a layer", ge=1)
    multiple_of: int | Literal["auto"] = option(
        "auto",
        "allow only ranks that are multiples of this number; auto takes what hardware is fast with, 16 or 8 (any, with keep)",
        metavar="N|auto",
    )
    min_saving: float | None = option(
        None,
        "factorise a layer only if that saves this fraction of the network's cost (default 0.001; none with --keep)",
        ge=0,
        lt=1,
    )
    unfolding: Literal["auto", "channel", "spatial", "best"] = option(
        "auto",
        "kernels of convolutions become k×k and 1×1 (channel), k×1 and 1×k (spatial), or what keeps more energy (best); "
        "auto tells from the shape, and from times, where a cost or time is budgeted, and is channel else",
    )
    overrides: dict[str, Any] = option(
        {},
        "by name pattern, a layer's rank, the fraction of it to keep, or null to stay dense: "
        "'{conv1: null, layer3.*: 0.3}'",
    )
    include: tuple[str, ...] = option(
        (), "factorise only layers whose names match one of these patterns, such as '*.mlp.*'", metavar="PATTERN"
    )
    exclude: tuple[str, ...] = option(
        (), "leave layers dense whose names match one of these patterns", metavar="PATTERN"
    )
    plan: Path | None = option(None, "take the ranks from this plan file in place of a budget")
    start: int | float = option(
        0.5, "when projections begin: a fraction of training (0.5) or a number of steps (2000)", metavar="N|X"
    )
    every: int | float | Literal["epoch"] = option(
        5, "interval between projections: a number of steps, a fraction of training, or 'epoch'", metavar="N|X|epoch"
    )
    every_last: int | None = option(None, "let the interval shrink to this number of steps by the end", ge=1)
    shrink_from: float = option(
        0.5, "fraction of training from which the interval shrinks, with --every-last", ge=0, lt=1
    )
    energy_transfer: bool | None = option(
        None, "hand the energy of pruned singular values to those that are kept (default: with images, not with text)"
    )
    rectify: bool = option(True, "fold batch norms into the weights while projecting")
    tail_scale: float = option(0.0, "multiply pruned singular values by this number, in place of 0", ge=0, lt=1)
    calibration: int = option(
        0, "training images or windows whose outputs say what projections keep; 0: the weights say it", ge=0
    )
    solver: Literal["auto", "eigh", "svd"] = option(
        "auto", "how leading subspaces are found: from the last projection's where possible (auto), or afresh"
    )
    factorize_all: bool = option(False, "factorise even layers where that saves nothing")
    reestimate_bn: bool = option(
        True, "estimate the batch norms' statistics of the compact network again, on training images"
    )


class Optimisation:
    """How the network is trained."""

    epochs: int = option(
        30,
        "passes over the training set; a resumed run may have more, and fractions are then fractions of the new total",
        ge=1,
    )
    batch_size: int = option(128, "images, or windows of text, in a step, in all processes together", ge=1)
    accumulate: int = option(
        1,
        "parts in which every process takes its images of a step, to save memory; batch norms see one part at a time",
        ge=1,
    )
    optimizer: Literal["sgd", "adamw", "lamb"] = option("sgd", "optimizer: SGD with momentum, AdamW, or LAMB")
    lr: float = option(0.1, "learning rate; with one-cycle, its peak", gt=0)
    momentum: float = option(0.9, "momentum of SGD", ge=0, lt=1)
    nesterov: bool = option(False, "Nesterov momentum for SGD")
    weight_decay: float = option(
        1e-4, "weight decay: L2 with SGD, decoupled with AdamW, part of the step with LAMB", ge=0
    )
    loss: Literal["cross-entropy", "bce"] = option(
        "cross-entropy",
        "cross-entropy, or binary cross-entropy of every class by itself, in which all classes of a mixed image are right",
    )
    label_smoothing: float = option(0.0, "label smoothing of the cross-entropy", ge=0, lt=1)
    teacher: str | None = option(
        None, "learn from this trained network too: the folder of a run or of lrpet.save, timm:NAME or torchvision:NAME"
    )
    distill: float = option(0.5, "part of the loss that is against the teacher's outputs, not the labels", gt=0, le=1)
    temperature: float = option(1.0, "number by which the outputs of teacher and network are divided", gt=0)
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = option("one-cycle", "schedule of the learning rate")
    milestones: tuple[int, ...] = option(
        (), "epochs at which the step schedule divides the rate by 10", metavar="EPOCH"
    )
    warmup_epochs: int = option(0, "epochs of linear warm-up; not with one-cycle", ge=0)
    ema: float | None = option(
        None,
        "score and keep the moving average of the weights, projected; the number is what it keeps at a step, such as 0.9999",
        gt=0,
        lt=1,
    )
    clip_grad: float | None = option(None, "scale gradients down to at most this norm, all together", gt=0)


class Machine:
    """Where and how fast it runs."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "device to run on")
    precision: Literal["no", "bf16", "fp16"] = option("no", "type of autocast")
    channels_last: bool = option(False, "use the memory layout NHWC")
    compile: bool = option(False, "compile the network with torch.compile")
    cuda_graphs: bool = option(False, "replay the network's kernels as CUDA graphs: faster for small networks on a GPU")
    num_workers: int = option(2, "processes that read image files", ge=0)


class Run:
    """The run itself."""

    seed: int = option(0, "seed of everything random", ge=0)
    output: Path | None = option(None, "run folder (default runs/MODEL-DATA-METHOD-SEED)")
    checkpoint_every: int = option(1, "epochs between checkpoints", ge=1)
    spectra: bool = option(
        True, "record the singular values of all layers at about ten moments of the training, for its report"
    )
    license: str | None = option(
        None, "licence of the saved network, for its card, as hubs of models name it: apache-2.0, mit, …"
    )
    log_with: tuple[str, ...] = option(
        ("tensorboard",),
        "trackers of accelerate to log to, beside metrics.jsonl: tensorboard, wandb, mlflow, …",
        metavar="NAME",
    )


#: {title: {name: option}} of everything that a recipe may say.
GROUPS: dict[str, dict[str, Option]] = {
    "network and data": options_of(NetworkAndData),
    "compression": options_of(Compression),
    "optimisation": options_of(Optimisation),
    "machine": options_of(Machine),
    "run": options_of(Run),
}
#: {name: option} of everything that a recipe may say.
RECIPE: dict[str, Option] = {name: each for group in GROUPS.values() for name, each in group.items()}
#: {name: option} of all options.
OPTIONS: dict[str, Option] = {**RECIPE, **options_of(Commands)}
