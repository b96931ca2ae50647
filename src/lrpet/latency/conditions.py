"""What networks are timed under: device, numbers, memory layout, threads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.compact.optimize import optimize
from lrpet.exporting.sessions import Precision
from lrpet.latency.runtimes import FROM_FILE, Runtime
from lrpet.layers.inputs import Inputs

_PRECISIONS: dict[torch.dtype, Precision] = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True)
class Conditions:
    """What all contenders are timed under. Raises ValueError for what this machine or a runtime cannot do."""

    threads: int | None = None
    """Threads of the processor; None for as many as torch has."""
    device: torch.device | str | None = None
    """Where PyTorch runs; None for where the example inputs are."""
    dtype: torch.dtype | None = None
    """Type of weights and inputs, and of OpenVINO's products; None for the network's own."""
    channels_last: bool = False
    """Whether PyTorch keeps images as NHWC. The other runtimes choose layouts themselves."""
    cuda_graphs: bool = False
    """Whether PyTorch replays the kernels of a pass as one CUDA graph."""
    optimized: bool = True
    """Whether PyTorch runs what `lrpet.optimize` makes of each network. The other runtimes optimise networks themselves."""

    def __post_init__(self) -> None:
        threads: Any = self.threads
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise ValueError(f"threads={threads!r} must be a whole number, at least 1")
        if self.dtype is not None and self.dtype not in _PRECISIONS:
            raise ValueError(f"dtype={self.dtype!r} must be one of {', '.join(map(str, _PRECISIONS))}")
        on_gpu = self.device is not None and torch.device(self.device).type == "cuda"
        if on_gpu and not torch.cuda.is_available():
            raise ValueError(
                f"device={str(self.device)!r} was asked for, and this machine has no GPU that torch sees: "
                "take device='cpu', or a build of torch with CUDA"
            )
        if self.cuda_graphs and self.device is not None and not on_gpu:
            raise ValueError(f"cuda_graphs needs device='cuda'; got device={str(self.device)!r}")

    def check(self, runtime: Runtime, inputs: Inputs) -> None:
        """Raise ValueError if a runtime cannot do what is asked, on these inputs."""
        if self.cuda_graphs and self.inputs(inputs).device.type != "cuda":
            raise ValueError(
                "cuda_graphs needs device='cuda', and the example inputs are on the CPU: give device='cuda'"
            )
        if runtime == "onnxruntime" and self.dtype not in (None, torch.float32):
            raise ValueError(
                f"ONNX Runtime is run in float32 on the CPU, not in {self.dtype}: leave out dtype, or leave out onnxruntime"
            )

    @property
    def precision(self) -> Precision:
        """The type of OpenVINO's products."""
        return _PRECISIONS[self.dtype or torch.float32]

    def said(self) -> list[str]:
        """Return in words how PyTorch is used, besides threads and device."""
        words = [str(self.dtype).removeprefix("torch.")] if self.dtype is not None else []
        words += ["channels_last in PyTorch"] if self.channels_last else []
        words += ["CUDA graphs"] if self.cuda_graphs else []
        return [*words, "optimised in PyTorch" if self.optimized else "as they are in PyTorch"]

    def inputs(self, inputs: Inputs, runtime: Runtime = "eager") -> Inputs:
        """Return inputs as a runtime gets them."""
        return inputs.map(lambda tensor: self._converted(tensor, runtime))

    def networks(
        self, networks: Mapping[str, nn.Module], inputs: Inputs, runtime: Runtime = "eager"
    ) -> dict[str, nn.Module]:
        """Return copies of networks as a runtime gets them, in eval mode; `inputs` are the users' own.

        All contenders come through here, so that whatever makes one of them faster is done to each.
        """
        return {name: self._form(network, self.inputs(inputs, runtime), runtime) for name, network in networks.items()}

    def _form(self, network: nn.Module, inputs: Inputs, runtime: Runtime) -> nn.Module:
        network = copy.deepcopy(network).eval()
        if runtime in FROM_FILE:
            return network.float()
        network = network.to(device=inputs.device, dtype=self.dtype)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return optimize(network, inputs) if self.optimized else network

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Give torch the number of threads inside the block, and the number it had after it."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads or before)
            yield
        finally:
            torch.set_num_threads(before)

    def _converted(self, tensor: Tensor, runtime: Runtime) -> Tensor:
        floats = tensor.is_floating_point()
        if runtime in FROM_FILE:
            return tensor.detach().float() if floats else tensor.detach()
        tensor = tensor.detach().to(device=self.device, dtype=self.dtype if floats else None)
        image = self.channels_last and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if image else tensor


def at_batch(inputs: Inputs, size: int) -> Inputs:
    """Return inputs of this batch size: tensors with the first tensor's leading dimension are repeated, or cut.

    Raises ValueError if there is no tensor that has a leading dimension.
    """
    if size < 1:
        raise ValueError(f"batch size {size} must be at least 1")
    present = batch_of(inputs)
    rows = torch.arange(size) % present

    def resized(tensor: Tensor) -> Tensor:
        if size == present or tensor.dim() == 0 or len(tensor) != present:
            return tensor
        return tensor[rows.to(tensor.device)]

    return inputs.map(resized)


def batch_of(inputs: Inputs) -> int:
    """Return the leading dimension of the first tensor. Raises ValueError if there is none."""
    first = next((tensor for tensor in inputs.tensors if tensor.dim() > 0), None)
    if first is None or len(first) == 0:
        raise ValueError("the example inputs hold no tensor with a leading dimension of examples: give one")
    return len(first)
