"""A training run from config to summary, in a folder of its own.

In the folder:

    config.yaml         the resolved config                  plan.json    what was decided for every layer
    metrics.jsonl       an object per epoch, projection      trackers/    what TensorBoard and others were told of it
    checkpoints/        the latest state, to resume from     compact/     the compact network (lrpet.load reads it)
    spectra/            singular values at a few moments     summary.txt  the summary as a table
    summary.json        what came out                        report.html  all of it on a page, from the command line

A run is resumed with its own options, but for where things are and how often a checkpoint is written. Its `epochs` may be
raised, even after it has finished: everything given as a fraction of the training, and the learning rates of the epochs to
come, are then those of a training of that length. Its summary and compact network stay until new ones take their place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import lrpet
from lrpet.latency.measure import quartiles
from lrpet.latency.memory import saved_bytes
from lrpet.train.card import add_to_card
from lrpet.train.config import Config, read_config
from lrpet.train.console import Console, as_text, summary_table
from lrpet.train.data.dataset import Dataset, Images, split
from lrpet.train.data.metadata import KINDS, trained_on
from lrpet.train.data.options import Batches, BatchOptions, in_parts
from lrpet.train.data.sets import load
from lrpet.train.data.text import TextDataset, Tokens, load_text
from lrpet.train.fit import Trained, fit
from lrpet.train.folder import RunFolder
from lrpet.train.measure import Score, score
from lrpet.train.modality import TEXT, Modality, modality_of
from lrpet.train.processes import Processes
from lrpet.train.provenance import provenance
from lrpet.train.task import Task, make_batches


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train as `config` says, and return the summary that is also left in the run folder.

    A run that fails before training begins leaves no folder. Processes that torchrun or `accelerate launch` started train
    together, on parts of each batch; process 0 writes and measures, and all see one file system.

    Raises:
        FileExistsError: the run folder exists and `resume` is not set.
        FileNotFoundError: the data is not there.
        ValueError: the config does not fit the data, the network, or the run that is resumed; or training diverged.
    """
    processes = Processes.joined(config.device)
    console = console or Console(quiet=not processes.main)
    RunFolder.check(config, resume=resume)
    task = Task.of(config)
    processes.wait()  # or the folder would be there before another process has looked
    with RunFolder.opened(config, task.plan, processes) as folder, console.run(config, folder.plan):
        task = replace(task, plan=folder.plan)
        source = provenance()  # of the code that trains, should it change meanwhile
        trained = fit(task, folder, console)
        if processes.main:
            folder.write_plan(trained.plan)
            summary = {**_finish(task, folder, trained), **source}
            add_to_card(folder.compact, summary)
            folder.write_summary(summary, as_text(summary_table([summary])))
            console.summary(summary)
        processes.wait()
        summary = folder.summary()
    processes.leave()
    return summary


def _finish(task: Task, folder: RunFolder, trained: Trained) -> dict[str, Any]:
    """Factorise, save, read back from disk, and measure what was read back."""
    config, device, modality = task.config, trained.device, task.modality
    compact = lrpet.factorize(trained.network, trained.plan)
    of_images: dict[str, Any] = {}  # language models have no batch norms, and text no corrupt images
    if isinstance(task.dataset, Dataset):
        as_it_comes = _validated(task, compact.to(device))
        of_images["val_accuracy_before_bn_reestimation"] = as_it_comes.accuracy if as_it_comes else None
        if config.reestimate_bn:
            update_bn(in_parts(task.batches(task.train, device, training=True), config.accumulate), compact)
    _save(compact.cpu(), folder.compact, task)

    compact = lrpet.load(folder.compact)
    costs = _costs(task, trained, compact)
    held_out = _validated(task, compact.to(device))
    tested = score(compact, task.batches(task.dataset.test, device, training=False), forward=modality.logits)
    if isinstance(task.dataset, Dataset):
        folder.log_corrupt(task.dataset.corrupt)
        of_images["corrupt_images"] = len(folder.corrupt)
    return {
        "model": config.model,
        "data": config.data,
        "method": config.method,
        "budget": trained.plan.budget,
        "epochs": config.epochs,
        "seed": config.seed,
        **costs,
        **modality.figures("val", held_out),
        **modality.figures("test", tested),
        **of_images,
        "seconds": trained.seconds,
        "config": config.model_dump(mode="json"),
    }


def _validated(task: Task, compact: nn.Module) -> Score | None:
    """Score a network, on its device, on what was held out, if anything was."""
    if not len(task.validation):
        return None
    held_out = task.batches(task.validation, next(compact.parameters()).device, training=False)
    return score(compact, held_out, forward=task.modality.logits)


def _save(compact: nn.Module, folder: Path, task: Task) -> None:
    """Write the compact network; a language model in such a way that transformers reads it too."""
    metadata = task.dataset.metadata | ({"license": task.config.license} if task.config.license else {})
    if task.modality is TEXT:
        from lrpet.integrations.huggingface.folder import save_for_both

        save_for_both(compact, folder, metadata=metadata)
    else:
        lrpet.save(compact, folder, overwrite=True, metadata=metadata)


def _costs(task: Task, trained: Trained, compact: nn.Module) -> dict[str, Any]:
    """Count and measure the dense and the compact network, on the CPU."""
    layout = torch.channels_last if task.config.channels_last else torch.contiguous_format
    contenders = {"dense": trained.network, "compact": compact.to(memory_format=layout)}
    several = task.modality.timed_batch
    of_one, of_several = (
        quartiles(contenders, task.modality.arguments(inputs.contiguous(memory_format=layout)))
        for inputs in (task.example, task.example.repeat(several, *[1] * (task.example.ndim - 1)))
    )
    return {
        "macs_dense": trained.plan.macs_dense,
        "macs": trained.plan.macs,
        "params_dense": trained.plan.params_dense,
        "params": trained.plan.params,
        "layer_macs_dense": trained.plan.layer_macs_dense,
        "layer_macs": trained.plan.layer_macs,
        "layer_params_dense": trained.plan.layer_params_dense,
        "layer_params": trained.plan.layer_params,
        "bytes_dense": saved_bytes(trained.network),
        "bytes": saved_bytes(compact),
        **_times("cpu_milliseconds", of_one),
        **_times(f"cpu_milliseconds_of_{several}", of_several),
    }


def _times(key: str, times: Mapping[str, tuple[float, float, float]]) -> dict[str, Any]:
    """Return the medians under `key`, and the quartiles around them, of the compact and the dense network."""
    named = {f"{key}_dense": times["dense"], key: times["compact"]}
    medians = {name: median for name, (_, median, _) in named.items()}
    return medians | {name.replace("milliseconds", "quartiles"): [low, high] for name, (low, _, high) in named.items()}


def evaluate(
    folder: str | os.PathLike[str],
    *,
    data: str | None = None,
    part: Literal["validation", "test"] = "test",
    data_dir: Path | None = None,
    download: bool = False,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
) -> Score:
    """Score a saved compact network on a part of its data. Takes and raises what `saved_with_data` does."""
    compact, of_part = saved_with_data(
        folder, data=data, part=part, data_dir=data_dir, download=download, device=device, batch_size=batch_size
    )
    return score(compact, of_part, forward=modality_of_saved(folder).logits)


def modality_of_saved(folder: str | os.PathLike[str]) -> Modality:
    """Return whether the compact network in the folder of a run or of `lrpet.save` is one of images or of text."""
    path = Path(folder)
    compact = path / "compact" if (path / "compact").is_dir() else path
    return modality_of(str(lrpet.read_metadata(compact).get("data")))


def saved_with_data(
    folder: str | os.PathLike[str],
    *,
    data: str | None = None,
    part: Literal["validation", "test"] = "test",
    data_dir: Path | None = None,
    download: bool = False,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
) -> tuple[nn.Module, Batches]:
    """Load a saved compact network and the batches of a part of its data.

    Args:
        folder: A finished run, or what `lrpet.save` wrote.
        data: The name of the data, as in a recipe; what the network was trained on if None.
        part: "validation" is what a run held out of its training images, so it needs the folder of a run.
        data_dir: Where the data's files are; where the run found them if None.
        download: Whether what is not there is downloaded. Without it nothing is written anywhere.
        device: Where the network and the batches are put.
        batch_size: Images at a time.

    Raises:
        FileNotFoundError: `folder` has no compact network, or the data is not to be found.
        ValueError: it is not known what the network was trained on, or the data does not fit it.
    """
    path = Path(folder)
    config = read_config(path / "config.yaml") if (path / "config.yaml").is_file() else None
    if part == "validation" and (config is None or data not in (None, config.data)):
        raise ValueError(
            "part=validation is what a run held out of its own training images: give the run's folder, without data"
        )
    saved = path if config is None else path / "compact"
    compact = lrpet.load(saved, device=device)
    where = data_dir or (None if config is None else config.data_dir)
    dataset = _data_of(saved, data, where, download=download)
    of_part: Images | Tokens = dataset.test
    if part == "validation" and config is not None:
        if isinstance(dataset, TextDataset):
            _, of_part = dataset.train.parts(config.holdout)
        else:
            _, of_part = split(dataset.train, holdout=config.holdout, seed=config.seed)
    options = BatchOptions(batch_size, on_corrupt="error" if config is None else config.on_corrupt)
    return compact, make_batches(of_part, dataset, options, device=torch.device(device), train=False)


def _data_of(saved: Path, name: str | None, data_dir: Path | None, *, download: bool) -> Dataset | TextDataset:
    """Load the data called `name`, or what the metadata of a saved network names, as the network takes it."""
    metadata = trained_on(saved, *KINDS)
    name = name or metadata.get("data")
    if name is None:
        raise ValueError(f"{saved} does not say what its network was trained on: name the data, such as data=cifar10")
    before = metadata.get("data")
    if before is not None and modality_of(name) is not modality_of(before):
        raise ValueError(
            f"{saved} was trained on {before}, and cannot be scored on {name}: one is text, one has images"
        )
    if modality_of(name) is TEXT:
        if "context" not in metadata:
            raise ValueError(f"{saved} does not say how text was cut: only folders of lrpet train say it")
        tokenizer = metadata.get("tokenizer")
        tokenizer = None if tokenizer == "bytes" else tokenizer
        return load_text(name, context=metadata["context"], tokenizer=tokenizer, download=download)
    size = metadata.get("image_size") if ":" in name else None
    dataset = load(name, data_dir, image_size=size, download=download)
    for what, here in (("classes", list(dataset.classes)), ("in_channels", dataset.in_channels)):
        if metadata.get(what, here) != here:
            raise ValueError(f"{name} has {what} {here}, but {saved} was trained on {what} {metadata[what]}")
    mean, std = (tuple(metadata.get(key, getattr(dataset, key))) for key in ("mean", "std"))
    if not len(mean) == len(std) == dataset.in_channels:
        raise ValueError(
            f"{saved} has a mean of {len(mean)} numbers and a std of {len(std)}, but {name} {dataset.in_channels} channels: "
            "it is damaged, save the network again"
        )
    cut = {key: metadata[key] for key in ("test_crop", "interpolation") if key in metadata}
    return replace(dataset, mean=mean, std=std, **cut)
