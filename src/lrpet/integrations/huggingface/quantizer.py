"""How transformers loads a compact model: factor pairs are put in place before weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors import safe_open
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from lrpet.compact.structure import place_
from lrpet.integrations.huggingface.config import METHOD, LrpetConfig
from lrpet.integrations.huggingface.names import fitted, ways
from lrpet.integrations.huggingface.native import attach
from lrpet.integrations.huggingface.notice import without_notice
from lrpet.layers.factors import FactorPair


@register_quantizer(METHOD)
class LrpetQuantizer(HfQuantizer):
    """The part of lrpet in transformers' `from_pretrained`.

    It goes once the weights are loaded. A compact model has plain layers, and transformers is to train, cast, compile and save
    it as any other model.
    """

    quantization_config: LrpetConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError where a dense model is to be loaded with `quantization_config=LrpetConfig(...)`."""
        if not self.pre_quantized:
            raise ValueError(
                "LrpetConfig says how a compact model was factorised, and cannot factorise a dense one while it is loaded: "
                "load without quantization_config, then call lrpet.compress, or train with LrpetCallback"
            )

    # transformers passes the config through one of these before it looks for weights; which one depends on its version.

    def update_attn_implementation(self, config: Any) -> Any:
        """Take away what leads readers without lrpet to an error."""
        return without_notice(config)

    def update_tp_plan(self, config: Any) -> Any:
        """Take away what leads readers without lrpet to an error."""
        return without_notice(config)

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **kwargs: Any) -> Any:
        plan = fitted(self.quantization_config.plan, model)
        place_(model, plan)
        _check_weights(model, checkpoint_files or ())
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        del model.hf_quantizer, model.quantization_method, model.is_quantized
        for module in model.modules():
            if hasattr(module, "config"):
                vars(module.config).pop("_is_quantized", None)
        attach(model)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Say that the model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that the model can be trained."""
        return True


def _check_weights(model: Any, files: Sequence[str]) -> None:
    """Raise ValueError if the plan and the weights do not fit: transformers would leave layers random, with a warning at most.

    They may be those of a dense model, or hold factors of layers that the plan leaves dense.
    """
    stored: set[str] = set()
    for file in files:
        if file.endswith(".safetensors"):
            with safe_open(file, framework="pt") as opened:
                stored.update(opened.keys())
    compact = [name for name, module in model.named_modules() if isinstance(module, FactorPair)]
    if compact and any(stored.issuperset(f"{way(name)}.weight" for name in compact) for way in ways(model)):
        raise ValueError(
            f"the config says that this {type(model).__name__} is compact, but its weights are those of a dense model, "
            "which was saved with the config of a compact one. Delete quantization_config and "
            "transformers_weights from config.json"
        )
    dense = [name for name, module in model.named_modules() if "weight" in dict(module.named_parameters(recurse=False))]
    factors = {name.removesuffix(".0.weight") for name in stored if name.endswith(".0.weight")}
    factors &= {name.removesuffix(".1.weight") for name in stored}
    for name in dense:
        if any(way(name) in factors and f"{way(name)}.weight" not in stored for way in ways(model)):
            raise ValueError(
                f"the weights hold two factors of {name!r}, which the plan in config.json leaves dense: "
                "config.json is damaged, or is not the one that was saved with them. Copy the folder again"
            )
