"""int8 on top of low rank: accuracy, size and time of dense, low-rank, int8, and both.

    python -m benchmarks.quantised OUT.json --dense FOLDER --compact FOLDER --data cifar10 --data-dir DATA

The folders are those of `lrpet.save`, of two networks trained alike. ONNX Runtime quantises statically: weights by channel,
activations by the ranges seen on training images. torchao quantises by PT2E for inductor, with the ranges of those images.
Accuracy is that of the test set. Times are measured in turns.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization
from torch import Tensor, nn

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet.compact.folding import fold_batch_norms_
from lrpet.latency.measure import raced
from lrpet.latency.memory import saved_bytes
from lrpet.train.data.batches import batches
from lrpet.train.data.options import Batches, BatchOptions
from lrpet.train.data.sets import load
from lrpet.train.provenance import provenance

LARGEST = 64
SIZES = (1, LARGEST)
#: Training images from which the ranges of activations are taken.
CALIBRATION = 512

Network = Callable[[Tensor], Tensor]


class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Images for ONNX Runtime's quantiser, one batch after the other."""

    def __init__(self, name: str, images: Tensor) -> None:
        self.batches: Iterator[Tensor] = iter(torch.chunk(images, -(-len(images) // LARGEST)))
        self.name = name

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch.numpy()}


def in_onnxruntime(network: nn.Module, images: Tensor, folder: Path) -> dict[str, tuple[Network, int | None]]:
    """Return {"float32" and "int8": (the network in ONNX Runtime, bytes of its file)}."""
    plain, prepared, quantised = (folder / f"{name}.onnx" for name in ("float32", "prepared", "int8"))
    lrpet.export(network, plain, images[:2], overwrite=True)
    quantization.shape_inference.quant_pre_process(str(plain), str(prepared))
    name = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantization.quantize_static(
        str(prepared),
        str(quantised),
        Calibration(name, images),
        per_channel=True,
        reduce_range=True,  # processors without VNNI add pairs of products in 16 bits, which 8 bits of weights overflow
    )
    return {
        "float32": (session(plain), plain.stat().st_size),
        "int8": (session(quantised), quantised.stat().st_size),
    }


def session(file: Path) -> Network:
    """Open an ONNX file with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda images: torch.from_numpy(opened.run(None, {name: images.numpy()})[0])


def in_inductor(network: nn.Module, images: Tensor) -> dict[str, tuple[Network, int | None]]:
    """Return {"float32" and "int8": (the compiled network, bytes of its file, if there is one)}."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    network = copy.deepcopy(network).eval()
    fold_batch_norms_(network, images[:2])
    batch = torch.export.Dim("batch", min=1, max=4096)
    captured = torch.export.export(network, (images[:2],), dynamic_shapes=({0: batch},)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(captured, quantizer)
    for part in torch.chunk(images, -(-len(images) // LARGEST)):
        prepared(part)
    quantised = convert_pt2e(prepared)
    torch.compiler.reset()
    # It keeps float32 weights and quantises them as it compiles, so that it has no file of int8 to weigh.
    return {
        "float32": (torch.compile(network), saved_bytes(network)),
        "int8": (torch.compile(quantised), None),
    }


def accuracy(network: Network, batches: Batches) -> float:
    """Return the fraction of images that are classified right."""
    right = count = 0
    for images, labels in batches:
        missing = LARGEST - len(images)  # a compiled network is asked for one shape alone
        filled = torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images
        right += int((network(filled)[: len(images)].argmax(1) == labels).sum())
        count += len(images)
    return right / count


def measure(networks: dict[str, nn.Module], train: Tensor, test: Batches, *, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each network in each form of each runtime; those of one runtime are timed in turns."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for runtime in ("onnxruntime", "inductor"):
            forms: dict[tuple[str, str], tuple[Network, int | None]] = {}
            for name, network in networks.items():
                own = Path(folder) / name
                own.mkdir(exist_ok=True)
                made = in_onnxruntime(network, train, own) if runtime == "onnxruntime" else in_inductor(network, train)
                forms |= {(name, numbers): form for numbers, form in made.items()}
            times = {
                size: _times({key: form[0] for key, form in forms.items()}, train[:size], seconds) for size in SIZES
            }
            for key, (form, size) in forms.items():
                row: dict[str, Any] = {"runtime": runtime, "network": key[0], "numbers": key[1], "bytes": size}
                row |= {"test_accuracy": accuracy(form, test)}
                rows.append(row | {f"milliseconds_of_{batch}": times[batch][key] for batch in SIZES})
                print(rows[-1], flush=True)
    return rows


def _times(networks: dict[tuple[str, str], Network], images: Tensor, seconds: float) -> dict[tuple[str, str], float]:
    passes = {str(key): (lambda network=network: network(images)) for key, network in networks.items()}
    rounds = raced(passes, seconds=seconds)
    return {key: statistics.median(rounds[str(key)]) for key in networks}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that the results are written to")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense network")
    parser.add_argument("--compact", type=Path, required=True, help="folder of the low-rank network")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each form at each batch size")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    dataset = load(options.data, options.data_dir)
    networks = {"dense": lrpet.load(options.dense).eval(), "low-rank": lrpet.load(options.compact).eval()}
    random = torch.Generator().manual_seed(0)
    chosen = dataset.train.subset(torch.randperm(len(dataset.train), generator=random)[:CALIBRATION])
    given, device = BatchOptions(batch_size=LARGEST, seed=0), torch.device("cpu")
    train, test = (batches(each, dataset, given, device=device, train=False) for each in (chosen, dataset.test))
    rows = measure(networks, torch.cat([images for images, _ in train]), test, seconds=options.seconds)
    write_json(options.out, {**provenance(), "seed": 0, "calibration_images": CALIBRATION, "rows": rows})


if __name__ == "__main__":
    main()
