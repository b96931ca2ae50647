"""The product of two factors, formed when something is computed with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

#: What is answered without the product. transformers asks the layers of T5 for their dtype at every pass.
_LOOKS = {Tensor.dtype.__get__, Tensor.shape.__get__, Tensor.ndim.__get__, Tensor.dim, Tensor.size, Tensor.numel}  # type: ignore[attr-defined]


class Product(Tensor):
    """A tensor that is multiplied out once something else than its dtype, shape or device is asked for."""

    _form: Callable[[], Tensor]
    _device: torch.device

    @staticmethod
    def of(form: Callable[[], Tensor], shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        """Return what `form` multiplies out, in this shape; it does so now where a compiler or tracer looks on."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return form()
        product = torch.empty(shape, dtype=like.dtype, device="meta").as_subclass(Product)
        product._form, product._device = form, like.device
        return product

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Return the device that the product is formed on."""
        return self._device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_formed, (args, kwargs or {}))
        return func(*args, **kwargs)


def _formed(leaf: Any) -> Any:
    return vars(leaf)["_form"]() if isinstance(leaf, Product) else leaf
