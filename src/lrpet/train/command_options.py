"""Options of commands that train nothing, or of one command alone. Imports the standard library alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lrpet.train.declaration import option


class Commands:
    """Options of commands that train nothing, or of one command alone."""

    in_channels: int = option(3, "channels of the images", ge=1)
    classes: int | None = option(
        None, "outputs of the classifier (default 1000 for timm: and torchvision:, else 10)", ge=1
    )
    latency: float | None = option(
        None,
        "budget: milliseconds of one pass, or a fraction of the dense network's; needs --runtime or --latency-table",
        gt=0,
    )
    latency_table: Path | None = option(None, "table of measured latencies, from lrpet profile-latency")
    runtime: Literal["eager", "compile", "onnxruntime", "openvino"] = option("eager", "what runs the layers")
    runtimes: tuple[Literal["eager", "compile", "onnxruntime", "openvino"], ...] = option(
        ("eager",), "what runs the networks: eager, compile (both PyTorch), onnxruntime, openvino", metavar="NAME"
    )
    batch_sizes: tuple[int, ...] = option((1,), "numbers of images in a pass", metavar="N", ge=1)
    threads: int | None = option(None, "threads of the processor (default: as many as torch takes)", ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "type of weights and images, and of OpenVINO's products"
    )
    cuda_graphs: bool = option(False, "replay the kernels of a pass as one CUDA graph, in PyTorch on a GPU")
    as_is: bool = option(False, "time networks as they are in PyTorch, not as lrpet.optimize makes them")
    layers: bool = option(False, "time every layer too, to see where time is lost (PyTorch, the first batch size)")
    seconds: float = option(0.2, "time that each layer is measured at each rank", gt=0)
    trials: int = option(50, "number of trials in all", ge=1)
    objective: Literal["budget", "weighted", "pareto"] = option(
        "budget",
        "what is sought: accuracy at the recipe's budget (budget), accuracy less weighted cost (weighted), or the front of "
        "accuracy and cost (pareto)",
    )
    sampler: Literal["tpe", "gp"] = option("tpe", "Optuna's sampler")
    lowest: float = option(0.05, "lowest ratio of a layer's rank", gt=0, lt=1)
    highest: float = option(1.0, "highest ratio of a layer's rank", gt=0, le=1)
    weight: float = option(1.0, "weight of the cost with --objective weighted")
    groups: tuple[str, ...] = option(
        (), "layers whose names match one pattern share a ratio, such as 'layer1.*'", metavar="PATTERN"
    )
    storage: str | None = option(
        None,
        "database that machines share the study in, as SQLAlchemy writes its URL: postgresql+psycopg://USER@HOST/NAME "
        "(default: a file in the folder)",
        metavar="URL",
    )
    study: str | None = option(None, "name of the study in the database; needs --storage", metavar="NAME")
    part: Literal["validation", "test"] = option("test", "part of the data to score on")
    tolerance: float = option(
        1e-4, "largest difference from the network's output that passes, as a fraction of its largest value", gt=0
    )
    images: int = option(1000, "images, or windows of text, that each file is checked on, at most", ge=1)
    download: bool = option(
        False, "download the data set or tokenizer that the network was trained on, if it is not there"
    )
    random_only: bool = option(False, "check on random inputs alone, where the data set is not at hand")
    overwrite: bool = option(False, "replace files that are there")
