"""The entry of a compact model in config.json."""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from lrpet.integrations.huggingface.notice import ADVICE
from lrpet.planning.plan import Plan

METHOD = "lrpet"


@register_quantization_config(METHOD)
class LrpetConfig(QuantizationConfigMixin):
    """What transformers keeps as `config.quantization_config` of a compact model: the plan that it was factorised by.

    Args:
        plan: The plan, or what `Plan.to_dict` gave.

    Raises ValueError if `plan` is no plan, or has a format that this version of lrpet does not read.
    """

    def __init__(self, plan: Plan | dict[str, Any], **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # an enumeration of those that come with transformers
        self.plan = plan.settled() if isinstance(plan, Plan) else Plan.from_dict(plan)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for config.json."""
        return {"quant_method": METHOD, "needs": ADVICE, "plan": self.plan.to_dict()}

    def get(self, key: str, default: Any = None) -> Any:
        """Return an entry, as of the dictionary that transformers expects where a config was read from a file."""
        return getattr(self, key, default)
