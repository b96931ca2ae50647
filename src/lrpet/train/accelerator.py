"""The accelerator of a config: its device, precision and trackers."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import nn

from lrpet.train.config import Config
from lrpet.train.processes import Processes
from lrpet.train.trackers import FOLDER, check_trackers


def make_accelerator(config: Config, folder: Path, processes: Processes) -> Accelerator:
    """Make an accelerator with the device, precision and trackers of a config; trackers write into a run's folder.

    Raises ValueError if this machine has not what the config asks for.
    """
    check_trackers(config.log_with)
    accelerator = Accelerator(
        cpu=processes.on_cpu,
        mixed_precision=config.precision,
        log_with=list(config.log_with) or None,
        project_config=ProjectConfiguration(logging_dir=str(folder / FOLDER)),
    )
    if config.device == "cuda" and accelerator.device.type != "cuda":
        raise ValueError(
            "device=cuda, but torch finds no CUDA device: use device=cpu, or install a CUDA build of torch"
        )
    return accelerator


def as_it_was(network: nn.Module) -> nn.Module:
    """Take away what `Accelerator.prepare` left on a network that is unwrapped, so that it can be prepared again.

    A network that says that it was prepared is neither moved to a device nor wrapped in autocast any more.
    """
    network.__dict__.pop("_is_accelerate_prepared", None)
    own = network.__dict__.get("forward")
    if getattr(own, "__func__", None) is type(network).forward:
        del network.__dict__["forward"]
    return network
