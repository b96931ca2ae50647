"""The runtimes that layers and networks are timed on: a network and its inputs become something ready to run."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lrpet.exporting.onnx import write_unchecked
from lrpet.exporting.sessions import Precision, Session, opened
from lrpet.layers import evaluating
from lrpet.layers.inputs import Inputs
from lrpet.planning.times import Runtime as Runtime

Pass = Callable[[], Any]
"""One forward pass, without arguments."""

#: Runtimes that read an ONNX file and run on the CPU.
FROM_FILE = ("onnxruntime", "openvino")
#: {runtime: (the packages it needs besides torch, how to install them)}.
_NEEDS = {
    "onnxruntime": (("onnx", "onnxscript", "onnxruntime"), "pip install 'lrpet[onnx]'"),
    "openvino": (("onnx", "onnxscript", "openvino"), "pip install 'lrpet[openvino]'"),
}


def check_runtime(runtime: str, device: torch.device) -> None:
    """Raise ValueError or ImportError if this runtime is unknown, does not run on the device, or is not installed."""
    if runtime not in get_args(Runtime):
        raise ValueError(f"runtime={runtime!r} must be one of {', '.join(get_args(Runtime))}")
    if runtime not in FROM_FILE:
        return
    if device.type != "cpu":
        raise ValueError(f"{runtime} is run on the CPU, not on {device}: leave device out, or leave out {runtime}")
    packages, remedy = _NEEDS[runtime]
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ImportError(f"runtime {runtime!r} needs {', '.join(missing)}: {remedy}", name=missing[0])


def ready(network: nn.Module, inputs: Inputs, runtime: Runtime, *, cuda_graphs: bool = False) -> Pass:
    """Return one pass of `network`, which is in eval mode, on `inputs` through a runtime.

    `cuda_graphs` replays the kernels of a pass as one graph. Run passes without gradients.

    Raises ValueError or ImportError if the runtime is unknown, not installed, or cannot take the network.
    """
    check_runtime(runtime, inputs.device)
    if runtime in FROM_FILE:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            export(network, inputs, file)
            return session(file, inputs, runtime)
    if runtime == "compile":
        mode = "reduce-overhead" if cuda_graphs else None
        network = torch.compile(network, dynamic=False, mode=mode)  # type: ignore[assignment]
    elif cuda_graphs:
        return _graphed(network, inputs)
    return lambda: inputs.run(network)


def ready_together(networks: Mapping[str, nn.Module], inputs: Inputs, runtime: Runtime) -> dict[str, Pass]:
    """Return a pass of each network on inputs of one kind, as `ready` does, with a single export for all of them.

    For small networks, such as the forms of one layer: an export takes longer than they do.
    """
    if runtime not in FROM_FILE:
        return {name: ready(network, inputs, runtime) for name, network in networks.items()}
    check_runtime(runtime, inputs.device)
    import onnx

    counts = {name: len(tensors(inputs.run(network))) for name, network in networks.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "networks.onnx"
        export(_SideBySide(networks), inputs, file)
        model = onnx.load(file)
        extractor, outputs = onnx.utils.Extractor(model), [each.name for each in model.graph.output]
        given = [each.name for each in model.graph.input]
        passes: dict[str, Pass] = {}
        for name, count in counts.items():
            own, outputs = outputs[:count], outputs[count:]
            onnx.save(extractor.extract_model(given, own), file)
            passes[name] = session(file, inputs, runtime)
    return passes


def session(file: Path, inputs: Inputs, runtime: Runtime, *, precision: Precision = "f32") -> Session:
    """Open an ONNX file that `export` wrote, in a runtime that reads such files, with as many threads as torch has."""
    return opened(file, arrays(inputs), runtime, threads=torch.get_num_threads(), precision=precision)


def arrays(inputs: Inputs) -> list[Any]:
    """Return the tensors of inputs as NumPy arrays."""
    return [tensor.detach().numpy() for tensor in inputs.tensors]


def tensors(result: Any) -> list[Tensor]:
    """Return the tensors of what a pass returned, in whatever they are nested, from any runtime."""
    leaves = (torch.from_numpy(leaf) if hasattr(leaf, "__array_interface__") else leaf for leaf in tree_leaves(result))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def export(network: nn.Module, inputs: Inputs, file: Path) -> None:
    """Write an ONNX file of the network for inputs of exactly these shapes.

    Raises ValueError if the exporter cannot take the network.
    """
    with evaluating(network), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        write_unchecked(network, inputs, file, [f"x{i}" for i in range(len(inputs.tensors))])


class _SideBySide(nn.Module):
    """Networks that take one input, as one network that returns what each returns."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks.values())

    def forward(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [network(*args, **kwargs) for network in self.networks]


def _graphed(network: nn.Module, inputs: Inputs) -> Pass:
    """Record the kernels of a pass as a CUDA graph, and return its replay."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # allocations and choices of kernels must not be recorded
            inputs.run(network)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = inputs.run(network)

    def replay() -> Any:
        graph.replay()
        return result

    return replay
