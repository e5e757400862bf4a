"""Pictures come in the number format that the model was loaded in, whatever its processor makes."""

from pathlib import Path

import pytest
import torch

from support.families import FAMILIES
from support.families.unlisted import UNLISTED
from support.family_models import EXAMPLES
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

BUILDERS = {**FAMILIES, **UNLISTED}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "family", ["got_ocr2", "llama4", "paligemma", "florence2", "vision-encoder-decoder", "deepseek_vl_hybrid"]
)
def test_a_model_answers_in_the_format_it_was_loaded_in(family: str, precision: str, tmp_path: Path) -> None:
    """GOT-OCR 2 and DeepSeek-VL's hybrid take fp32 in fp32 alone; Llama 4's processor always makes bf16."""
    BUILDERS[family](tmp_path)
    loaded = load_base(ModelSettings(model=str(tmp_path), precision=precision))
    prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
    turns, images = EXAMPLES[0]
    batch = prompt.training_batch([turns], [images])
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert {batch[name].dtype for name in batch if "pixel_values" in name} == {expected}
    assert torch.isfinite(loaded.model(**batch).loss)
    inputs = prompt.inputs([turns], [images])
    assert len(prompt.decode(loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False), inputs)) == 1
