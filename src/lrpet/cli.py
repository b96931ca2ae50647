"""The command line: `lrpet train`, `lrpet plan`, `lrpet profile-latency`, `lrpet search`, `lrpet eval`."""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lrpet.planning.allocators import Allocator

HINT = "this command needs more packages: pip install 'lrpet[train]' (search: 'lrpet[search]', ONNX Runtime: 'lrpet[onnx]')"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for bad input (said in one message), or 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="lrpet", description="Compact neural networks, trained from scratch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    try:
        _add_train(commands)
        _add_plan(commands)
        _add_profile_latency(commands)
        _add_search(commands)
        _add_eval(commands)
        options = parser.parse_args(arguments)
        options.run(options)
    except ModuleNotFoundError as error:
        print(f"lrpet: no module {error.name!r}: {HINT}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"lrpet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lrpet: interrupted; the same command with --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _add_train(commands: Any) -> None:
    from lrpet.train.config import GROUPS, Config

    train = commands.add_parser(
        "train",
        help="train a network, factorise it, save and measure it",
        description="Train a network from a recipe, from options, or from a recipe with options over it; "
        "'none' takes back what a recipe says.",
    )
    train.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="options as YAML")
    train.add_argument("--resume", action="store_true", help="continue the run in the run folder")
    train.add_argument("--print-config", action="store_true", help="print the resolved config as YAML, and stop")
    groups = {name: train.add_argument_group(name) for name in GROUPS}
    for name, field in Config.model_fields.items():
        extra = typing.cast("dict[str, Any]", field.json_schema_extra)
        default = "" if field.default in (None, ()) else f" [{field.default}]"
        groups[extra["group"]].add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            help=f"{field.description}{default}".replace("%", "%%"),
            **_argument(field.annotation),
        )
    train.set_defaults(run=_train)


def _argument(annotation: Any) -> dict[str, Any]:
    """How argparse should take an option of this type; values are checked later, by the config itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _argument(kinds[0]) if len(kinds) == 1 else {"metavar": "N|WORD"}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is Literal:
        return {"choices": typing.get_args(annotation)}
    if typing.get_origin(annotation) is tuple:
        return {"nargs": "+", "metavar": "VALUE"}
    return {"metavar": {int: "N", float: "X", Path: "PATH"}.get(annotation, "NAME")}


def _train(options: argparse.Namespace) -> None:
    from lrpet.train.config import Config, make_config, read_config

    overrides = {
        name: None if value == "none" and Config.model_fields[name].default is None else value
        for name, value in vars(options).items()
        if name in Config.model_fields
    }
    config = read_config(options.recipe, overrides) if options.recipe else make_config(overrides)
    if options.print_config:
        print(config.to_yaml(), end="")
        return
    from lrpet.train.run import train

    train(config, resume=options.resume)


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="print what a budget means for every layer of a network",
        description="Print what becomes of every layer of a network, and what that saves.",
    )
    plan.add_argument("model", help="resnet8/20/32/56/110, vgg16_bn, googlenet, timm:NAME, torchvision:NAME")
    plan.add_argument("--keep", type=float, metavar="X", help="fraction of every layer's rank to keep")
    for name, what in (("macs", "multiply-adds"), ("params", "parameters"), ("bytes", "bytes")):
        plan.add_argument(
            f"--{name}", type=float, metavar="X", help=f"budget of {what}: a fraction of the dense, or a number"
        )
    plan.add_argument("--latency", type=float, metavar="X", help="budget of milliseconds, or a fraction; with a table")
    plan.add_argument("--latency-table", type=Path, metavar="FILE", help="from lrpet profile-latency")
    plan.add_argument(
        "--allocate",
        choices=typing.get_args(Allocator),
        default="uniform",
        help="how budgets are divided; energy and threshold look at trained weights [uniform]",
    )
    plan.add_argument(
        "--start", type=Path, metavar="PATH", help="trained weights: a safetensors file, or a run's folder"
    )
    plan.add_argument("--pretrained", action="store_true", help="the library's weights (timm:, torchvision:)")
    plan.add_argument("--min-rank", type=int, metavar="N", default=1, help="no lower rank [1]")
    plan.add_argument("--max-rank", type=int, metavar="N", help="no higher rank")
    plan.add_argument("--multiple-of", type=int, metavar="N", default=1, help="only multiples of this [1]")
    plan.add_argument(
        "--overrides",
        metavar="YAML",
        help="by name pattern a rank, a fraction of it, or null to stay dense: '{conv1: null, layer3.*: 0.3}'",
    )
    plan.add_argument("--image-size", type=int, metavar="N", help="side in pixels [the network's own, or 32]")
    plan.add_argument("--in-channels", type=int, metavar="N", default=3, help="of the images [3]")
    plan.add_argument("--classes", type=int, metavar="N", help="[1000 for timm: and torchvision:, else 10]")
    plan.add_argument("--factorize-all", action="store_true", help="factorise even where that saves nothing")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON instead of a table")
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    import torch

    import lrpet
    from lrpet import models
    from lrpet.train.config import read_mapping

    trained = options.pretrained or options.start is not None
    if options.allocate != "uniform" and not trained:
        raise ValueError(
            f"--allocate {options.allocate} looks at the weights, which say nothing before training: "
            "give trained ones, by --start or --pretrained"
        )
    library = ":" in options.model
    classes = options.classes or (1000 if library else 10)
    model = models.create(
        options.model, num_classes=classes, in_channels=options.in_channels, pretrained=options.pretrained
    )
    if options.start is not None:
        from lrpet.train.task import load_start

        load_start(options.start, model)
    side = options.image_size or (_own_size(model) or 224 if library else 32)
    plan = lrpet.plan(
        model,
        torch.zeros(1, options.in_channels, side, side),
        keep=options.keep,
        macs=options.macs,
        params=options.params,
        bytes=options.bytes,
        latency=options.latency,
        latency_table=None if options.latency_table is None else lrpet.LatencyTable.load(options.latency_table),
        allocate=options.allocate,
        min_rank=options.min_rank,
        max_rank=options.max_rank,
        multiple_of=options.multiple_of,
        overrides=None if options.overrides is None else read_mapping(options.overrides),
        factorize_all=options.factorize_all,
    )
    print(plan.to_json() if options.json else plan)


def _own_size(model: Any) -> int | None:
    """The input size a timm model says it was made for."""
    size = getattr(model, "pretrained_cfg", {}).get("input_size")
    return size[-1] if size else None


def _add_profile_latency(commands: Any) -> None:
    measure = commands.add_parser(
        "profile-latency",
        help="measure what layers take, dense and factorised",
        description="Measure every distinct layer of a network, dense and at a ladder of ranks, on this machine.",
    )
    measure.add_argument("model", help="resnet8/20/32/56/110, vgg16_bn, googlenet, timm:NAME, torchvision:NAME")
    measure.add_argument("table", type=Path, metavar="TABLE.json", help="where the table goes")
    measure.add_argument("--runtime", choices=("eager", "compile", "onnxruntime"), default="eager", help="[eager]")
    measure.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[cpu]")
    measure.add_argument("--batch-size", type=int, metavar="N", default=1, help="images a pass [1]")
    measure.add_argument("--image-size", type=int, metavar="N", help="side in pixels [the network's own, or 32]")
    measure.add_argument("--in-channels", type=int, metavar="N", default=3, help="of the images [3]")
    measure.add_argument("--multiple-of", type=int, metavar="N", default=1, help="measure at such ranks only [1]")
    measure.add_argument("--seconds", type=float, metavar="X", default=0.2, help="for each layer at each rank [0.2]")
    measure.set_defaults(run=_profile_latency)


def _profile_latency(options: argparse.Namespace) -> None:
    import torch

    from lrpet import models
    from lrpet.latency.profile import profile_latency
    from lrpet.latency.table import LatencyTable
    from lrpet.train.provenance import provenance

    model = models.create(options.model, in_channels=options.in_channels).to(options.device)
    side = options.image_size or (_own_size(model) or 224 if ":" in options.model else 32)
    example = torch.randn(options.batch_size, options.in_channels, side, side, device=options.device)
    table = profile_latency(
        model,
        example,
        runtime=options.runtime,
        multiple_of=options.multiple_of,
        seconds=options.seconds,
        told=lambda name: print(f"measuring {name}", flush=True),
    )
    LatencyTable(table.network, table.dense, table.factorised, {**table.source, **provenance()}).save(options.table)
    faster = sum(min(table.factorised[name].values()) < time for name, time in table.dense.items())
    print(f"{options.table}: {len(table.dense)} layers, of which {faster} were faster at some rank")


def _add_search(commands: Any) -> None:
    search = commands.add_parser(
        "search",
        help="search for the ranks of every layer",
        description="Search for ranks by short trainings. The same command again goes on; several at once share the work.",
    )
    search.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="of each trial, with a budget and few epochs")
    search.add_argument("folder", type=Path, metavar="FOLDER", help="where the search is kept, and its best plan left")
    search.add_argument("--trials", type=int, metavar="N", default=50, help="in all [50]")
    search.add_argument(
        "--objective", choices=("budget", "weighted", "pareto"), default="budget", help="what is sought [budget]"
    )
    search.add_argument("--sampler", choices=("tpe", "gp"), default="tpe", help="of Optuna [tpe]")
    search.add_argument("--lowest", type=float, metavar="X", default=0.05, help="ratio of a layer's rank [0.05]")
    search.add_argument("--highest", type=float, metavar="X", default=1.0, help="ratio of a layer's rank [1.0]")
    search.add_argument("--weight", type=float, metavar="X", default=1.0, help="of the cost, in 'weighted' [1.0]")
    search.add_argument(
        "--groups", nargs="+", metavar="PATTERN", default=(), help="layers with such names share a ratio, as 'layer1.*'"
    )
    search.add_argument("--data-dir", type=Path, metavar="PATH", help="[as in the recipe]")
    search.set_defaults(run=_search)


def _search(options: argparse.Namespace) -> None:
    from lrpet.train.config import BUDGETS, read_config
    from lrpet.train.console import Console
    from lrpet.train.search import Search, search

    overrides = {"data_dir": options.data_dir} if options.data_dir else {}
    recipe = read_config(options.recipe, overrides)
    names = ("folder", "trials", "objective", "sampler", "lowest", "highest", "weight")
    given = {name: getattr(options, name) for name in names}
    best = search(Search(recipe, **given, groups=tuple(options.groups)), console=Console())
    instead = " ".join(f"--{name} none" for name in BUDGETS if getattr(recipe, name) is not None)
    print(f"best: {best.summary()}")
    print(f"train it with: lrpet train {options.recipe} {instead} --plan {options.folder / 'plan.json'}")


def _add_eval(commands: Any) -> None:
    evaluate = commands.add_parser(
        "eval",
        help="score a saved compact network",
        description="Score the compact network of a run folder, on the data it was trained for.",
    )
    evaluate.add_argument("folder", type=Path, metavar="FOLDER", help="a run folder")
    evaluate.add_argument("--part", choices=("validation", "test"), default="test", help="of the data [test]")
    evaluate.add_argument("--data-dir", type=Path, metavar="PATH", help="[as in the run]")
    evaluate.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[cpu]")
    evaluate.add_argument("--batch-size", type=int, metavar="N", default=256, help="[256]")
    evaluate.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> None:
    from lrpet.train.run import evaluate

    result = evaluate(
        options.folder,
        part=options.part,
        data_dir=options.data_dir,
        device=options.device,
        batch_size=options.batch_size,
    )
    print(f"{options.part} accuracy {result.accuracy:.2%}, loss {result.loss:.4f}")
