"""Which kernel computes attention: transformers' choice, or one that was asked for and is there."""

import importlib.util

from transformers import PreTrainedModel

from vlm.errors import UserError
from vlm.settings import ModelSettings

SUPPORT = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}
"""What a model's class says of itself. Eager is what all are written in."""


def attention_arguments(
    settings: ModelSettings, blueprint: PreTrainedModel, device: str, precision: str
) -> dict[str, str]:
    """What `from_pretrained` is told: nothing for `auto`. Raises `UserError` for what can't be done here."""
    wanted = settings.attn_implementation
    if wanted == "auto":
        return {}
    auto = "Use --attn_implementation auto."
    if wanted == "flash_attention_2":
        if device != "cuda":
            raise UserError("FlashAttention runs on GPUs alone.", auto)
        if precision == "fp32":
            raise UserError("FlashAttention computes in bf16 or fp16.", f"Use --precision bf16. {auto}")
        if importlib.util.find_spec("flash_attn") is None:
            raise UserError("FlashAttention is not installed.", f"pip install flash-attn. {auto}")
    lacking = {
        type(part).__name__
        for part in blueprint.modules()
        if isinstance(part, PreTrainedModel) and wanted in SUPPORT and not getattr(part, SUPPORT[wanted])
    }
    if lacking:
        raise UserError(f"{', '.join(sorted(lacking))} can't compute attention with {wanted}.", auto)
    return {"attn_implementation": wanted}
