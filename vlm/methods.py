"""The PEFT methods on offer, in one table that settings, form and vlm.adapters read. No torch."""

from typing import Literal

Method = Literal[
    "lora",
    "rslora",
    "dora",
    "pissa",
    "olora",
    "adalora",
    "ia3",
    "loha",
    "lokr",
    "oft",
    "vera",
    "hira",
    "miss",
    "prefix_tuning",
    "prompt_tuning",
]
