"""`lrpet export`: write a compact network in other formats, checked against it."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.networks import example_images
from lrpet.cli.saying import say
from lrpet.train.options import OPTIONS

if TYPE_CHECKING:
    from torch import nn

    from lrpet.exporting import Artefact

_DATA = (
    OPTIONS["part"].but(help="part of the data that each file is checked on"),
    OPTIONS["data"].but(default=None, help=f"{OPTIONS['data'].help} (default: what the network was trained on)"),
    OPTIONS["data_dir"],
    OPTIONS["download"],
)
_OPTIONS = (
    *_DATA,
    OPTIONS["images"],
    OPTIONS["random_only"],
    OPTIONS["image_size"].but(
        help="side of the images in pixels, with --random-only (default: what the network was made for, or 32)"
    ),
    OPTIONS["batch_size"].but(
        default=None, type=int | None, help="images in a batch, fixed in the file (default: any number)"
    ),
    OPTIONS["tolerance"],
    OPTIONS["overwrite"],
)


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet export`."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="run folder, or folder of a compact network, as lrpet.save writes it",
    )
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="file to write; its suffix says the format: .onnx, .pt2 (torch.export), .xml (OpenVINO) or .pte (ExecuTorch)",
    )
    for option in _OPTIONS:
        add_option(parser, option)


def run(options: argparse.Namespace) -> None:
    """Write every file, and print what came of checking it."""
    import lrpet
    from lrpet.exporting.formats import format_of
    from lrpet.train.run import modality_of_saved

    for path in options.files:
        format_of(path)
    network, example, given = _network(options)
    for path in options.files:
        artefact = lrpet.export(
            network,
            path,
            example,
            inputs=given,
            dynamic_batch=options.batch_size is None,
            tolerance=options.tolerance,
            overwrite=options.overwrite,
        )
        say(_described(artefact, f"{modality_of_saved(options.folder).item}s"))


def _network(options: argparse.Namespace) -> tuple[nn.Module, Any, list[Any] | None]:
    """Return the compact network, an example for it, and batches of its data unless random inputs are to do."""
    rows = options.batch_size or 2
    if options.random_only:
        import lrpet

        network = lrpet.load(options.folder)
        return network, _random_example(options, network, rows=rows), None
    import torch

    from lrpet.train.run import modality_of_saved, saved_with_data

    given = {option.name: getattr(options, option.name) for option in _DATA}
    size = min(options.images, 250)
    network, batches = saved_with_data(options.folder, **given, batch_size=size)
    inputs = [batch for batch, _ in islice(batches, -(-options.images // size))]
    joined = torch.cat(inputs)[: options.images]
    taken = modality_of_saved(options.folder).arguments
    return network, taken(joined[torch.arange(rows) % len(joined)]), [taken(part) for part in torch.split(joined, size)]


def _random_example(options: argparse.Namespace, network: nn.Module, *, rows: int) -> Any:
    """Return random images of the size that the network was trained on, or was made for; or random windows of tokens."""
    import torch

    from lrpet.train.data.metadata import trained_on
    from lrpet.train.modality import TEXT

    saved = options.folder / "compact" if (options.folder / "compact").is_dir() else options.folder
    metadata = trained_on(saved, "context", "vocabulary", "image_size")
    source = cast(Any, network).lrpet_source
    if metadata.keys() >= {"context", "vocabulary"}:
        return TEXT.arguments(torch.randint(metadata["vocabulary"], (rows, metadata["context"])))
    about = argparse.Namespace(
        model=source.name,
        in_channels=source.in_channels,
        image_size=options.image_size or metadata.get("image_size"),
    )
    return example_images(about, network, batch_size=rows)


def _described(artefact: Artefact, given: str) -> str:
    found = ", ".join(
        f"{check['error']:.0e} on {check['rows']} {given if check['on'] == 'given' else 'random inputs'}"
        for check in artefact.manifest["checks"]
    )
    last = artefact.manifest["checks"][-1]
    agreement = "" if last["agreement"] is None else f"; {last['agreement']:.2%} of the predictions agree"
    return f"{artefact.path}: {artefact.size / 1e6:.2f} MB, largest relative error {found}{agreement}"


COMMAND = Command(
    name="export",
    summary="write a compact network in other formats",
    description="Write the compact network of a run, or of a folder that lrpet.save wrote, in other formats. Every file is "
    "read back and run beside the network, on random inputs and on images of its data set. A file that differs is not kept. "
    "Beside each file goes a manifest, FILE.json.",
    examples="""\
  lrpet export runs/resnet20-digits-lrpet-0 compact.onnx
  lrpet export runs/resnet20-digits-lrpet-0 compact.xml compact.pt2 compact.pte --part validation
  lrpet export compact/ compact.onnx --random-only --batch-size 1""",
    declare=declare,
    run=run,
)
