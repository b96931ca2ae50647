"""Linear layers, PyTorch's and that of GPT-2."""

from __future__ import annotations

from torch import Tensor, nn

from lrpet.layers.factors import FactorPair
from lrpet.layers.matrix import Call, MatrixLayer, MatrixShape, uninitialised


class Linear(MatrixLayer):
    """An `nn.Linear`."""

    plain: tuple[type[nn.Module], ...] = (nn.Linear,)
    equivalent: tuple[str, ...] = ("transformers.models.falcon.modeling_falcon.FalconLinear",)

    def _shape(self) -> MatrixShape:
        """Return the shape of the weight."""
        return MatrixShape(*self.weight.shape)

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return the weight, or a tensor of its shape, as one matrix, shape (1, n, c)."""
        return (self.weight if tensor is None else tensor)[None]

    def tensor(self, matrices: Tensor) -> Tensor:
        """Return the one matrix."""
        return matrices[0]

    def positions(self, call: Call) -> int:
        """Return the number of tokens, or of whatever the leading dimensions count."""
        return call.output[:-1].numel()

    def empty_factors(self, rank: int) -> FactorPair:
        """Return two linears, c→r and r→n."""
        like, shape = self._like(), self.shape
        first = uninitialised(nn.Linear, shape.columns, rank, bias=False, **like)
        return self._paired(first, uninitialised(nn.Linear, rank, shape.rows, bias=self.bias is not None, **like))


class TransformersConv1D(Linear):
    """The linear layer of GPT-2 and its kin, which stores its weight as (inputs, outputs)."""

    plain = ()

    def _shape(self) -> MatrixShape:
        """Return the shape of the transposed weight."""
        columns, rows = self.weight.shape
        return MatrixShape(rows, columns)

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return the weight, or a tensor of its shape, transposed, as one matrix of shape (1, n, c)."""
        return (self.weight if tensor is None else tensor).mT[None]

    def tensor(self, matrices: Tensor) -> Tensor:
        """Return the one matrix, transposed."""
        return matrices[0].mT

    @staticmethod
    def matches(module: nn.Module) -> bool:
        """Whether the module is transformers' `Conv1D`, told by its name so that nothing is imported."""
        return any(
            kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
        )
