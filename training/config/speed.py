"""SpeedSettings: what makes a run faster and not another, refused where it is not there. No torch."""

import importlib.util
import shutil
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vlm.errors import UserError

COMPILERS = ("c++", "g++", "clang++", "cl")


class SpeedSettings(BaseModel):
    """How a run computes what it computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_image_features: Literal["auto", "on", "off"] = Field(
        "auto", description="Encode each image once where it stays the same; `on` refuses where it can't."
    )
    group_by_image: bool = Field(
        False, description="Questions about one image in one batch: what they share is computed once."
    )
    dataloader_num_workers: int = Field(
        0, ge=0, le=64, description="Processes that decode images ahead, where pixels are needed."
    )
    torch_compile: bool = Field(
        False,
        description="Compile the model with torch.compile: a slow start, then faster steps on a GPU.",
    )
    use_liger_kernel: bool = Field(
        False, description="Liger's kernels, on a GPU: less memory, faster steps for the models it knows."
    )


def check_speed(settings: SpeedSettings, device: str) -> None:
    """Raises `UserError` where the machine, or what is installed, can't do what is asked for."""
    if settings.use_liger_kernel:
        if device != "cuda":
            raise UserError("Liger's kernels run on GPUs alone.", "Leave --use_liger_kernel out.")
        if importlib.util.find_spec("liger_kernel") is None:
            raise UserError(
                "Liger's kernels are not installed.",
                "Install them with: pip install liger-kernel, or leave --use_liger_kernel out.",
            )
    if settings.torch_compile:
        if device == "mps":
            raise UserError("torch.compile is not tried on mps devices.", "Leave --torch_compile out.")
        if device == "cpu" and not any(map(shutil.which, COMPILERS)):
            raise UserError(
                "torch.compile needs a C++ compiler on a CPU, and there is none.",
                "Install g++, or leave --torch_compile out.",
            )
        if device == "cuda" and importlib.util.find_spec("triton") is None:
            raise UserError(
                "torch.compile needs Triton on a GPU.",
                "Install it with: pip install triton, or leave --torch_compile out.",
            )
