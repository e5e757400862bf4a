"""What only a GPU shows: `python -m benchmarks.gpu [--minutes 8] [--only PART] [--tiny]`.

It asks first which card and which packages are here. Each part is a process of its own with a hard limit, and
is told as soon as it is done; what is not here is told as that. No network, random weights in the shapes of
SmolVLM-256M and Qwen3-VL-2B. On a CPU, or with --tiny, the same paths go with tiny models. The last line is
JSON; the exit code is 1 where a part failed.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Told = dict[str, Any]

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "flash-attn", "kernels", "liger-kernel", "trl")
STEPS, WARM = 12, 4
IMAGES = 12
LONGEST_PART_S, MAKE_S = 75.0, 150.0
PLAIN: Told = {"text_lora_r": 16, "cache_image_features": "off"}
VISION: Told = {"use_vision_lora": True, "vision_lora_r": 16}

# By what is told: base and settings. What a base or this machine can't do is refused by the run, in words.
RUNS: dict[str, tuple[str, Told]] = {
    "bf16 LoRA": ("smolvlm", {}),
    "features kept": ("smolvlm", {"cache_image_features": "auto"}),
    "merged questions": ("smolvlm", {"cache_image_features": "auto", "group_by_image": True}),
    "vision LoRA": ("smolvlm", VISION),
    "4-bit QLoRA": ("smolvlm", {"quantization": "4bit"}),
    "eager attention": ("smolvlm", {"attn_implementation": "eager"}),
    "FlashAttention": ("smolvlm", {"attn_implementation": "flash_attention_2"}),
    "checkpointing": ("smolvlm", {"gradient_checkpointing": True}),
    "paged optimizer": ("smolvlm", {"optim": "paged_adamw_8bit"}),
    "torch.compile": ("smolvlm", {"torch_compile": True}),
    "Liger": ("smolvlm", {"use_liger_kernel": True}),
    "2 B bf16 LoRA": ("qwen3_vl", {}),
    "2 B vision LoRA": ("qwen3_vl", VISION),
    "2 B 4-bit QLoRA": ("qwen3_vl", {"quantization": "4bit", "gradient_checkpointing": True}),
    "2 B Liger": ("qwen3_vl", {"use_liger_kernel": True}),
}


def settings_of(job: Told, base: str, more: Told) -> Told:
    """A run's settings: short, with nothing beside the steps."""
    on_cpu = job["device"] == "cpu"
    return {
        **{"model": str(Path(job["folder"]) / base), "dataset": str(Path(job["folder"]) / "data")},
        **{"workspace": job["folder"], "name": job["name"], "device": job["device"], "batch_size": 4},
        **{"precision": "fp32" if on_cpu else "bf16", "max_steps": job["steps"], "learning_rate": 1e-4},
        **{"held_out": 0, "evaluations": 0, "sample_answers": 0, "blindfold_test": False, "logging_steps": 1},
        **{"warmup_steps": 0, "lr_scheduler_type": "constant", **({"threads": 1} if on_cpu else {})},
        **PLAIN,
        **more,
    }


def machine(job: Told) -> Told:
    """The cards, what they can hold, and the packages that are here."""
    import torch

    packages = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    cards = [torch.cuda.get_device_properties(each) for each in range(torch.cuda.device_count())]
    named = [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards]
    return {"cards": named, "cuda": torch.version.cuda, "packages": packages}


def make(job: Told) -> Told:
    """A base with random weights, and the dataset of benchmarks.training."""
    from benchmarks.gpu_models import MAKERS
    from benchmarks.training_model import make_dataset

    folder = Path(job["folder"])
    MAKERS[job["base"]](folder / job["base"], job["device"], tiny=job["tiny"])
    if not (folder / "data").exists():
        make_dataset(folder / "data", job["images"])
    return {"gigabytes": sum(file.stat().st_size for file in (folder / job["base"]).iterdir()) / 1e9}


def training_run(job: Told) -> Told:
    """A run as it is: seconds a step once it is warm, tokens a second, memory estimated and taken."""
    import torch

    from benchmarks.training import Watch
    from training import runs
    from training.config import build
    from training.loop.train import train
    from training.loop.trainer import AdapterTrainer
    from training.memory.estimate import estimate
    from training.runs.events import EventLog

    base, more = RUNS[job["part"]]
    run = runs.prepare(build(settings_of(job, base, more)))
    on_gpu, times, tokens, watch = job["device"] == "cuda", [], [], Watch()

    class Measured(AdapterTrainer):
        def training_step(self, model: Any, inputs: Told, *args: Any, **kwargs: Any) -> Any:
            if not times:
                (torch.cuda.reset_peak_memory_stats if on_gpu else watch.start)()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *args, **kwargs)

    train(run.config(), run, EventLog(run.events_path), lambda: False, trainer_type=Measured)
    taken = torch.cuda.max_memory_reserved() if on_gpu else 1e9 * watch.stop()["memory_gb"]
    losses = [event["loss"] for event in run.events({"step"})]
    warm = min(WARM, len(times) - 2)
    step_s = (times[-1] - times[warm]) / (len(times) - 1 - warm)
    return {
        "step_s": step_s,
        "tokens_s": sum(tokens[warm:-1]) / (times[-1] - times[warm]),
        "memory_gb": taken / 1e9,
        "estimated_gb": estimate(run.config()).total / 1e9,
        "losses": [losses[0], losses[-1]],
    }


def trl_run(job: Told) -> Told:
    """TRL's SFTTrainer with the recipe of *bf16 LoRA*, on the same rows."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    settings, on_gpu, times = settings_of(job, "smolvlm", {}), job["device"] == "cuda", []
    folder = Path(settings["dataset"])
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    data = datasets.Dataset.from_list(
        [
            {
                "prompt": [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": row["question"]}],
                    }
                ],
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}],
                "images": [str(folder / row["file_name"])],
            }
            for row in rows
        ]
    ).cast_column("images", datasets.Sequence(datasets.Image()))

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    dtype = torch.bfloat16 if on_gpu else torch.float32
    trainer = SFTTrainer(
        AutoModelForImageTextToText.from_pretrained(settings["model"], dtype=dtype),
        args=SFTConfig(
            output_dir=str(Path(job["folder"]) / "trl"),
            per_device_train_batch_size=settings["batch_size"],
            max_steps=settings["max_steps"],
            learning_rate=settings["learning_rate"],
            **{"bf16": on_gpu, "use_cpu": not on_gpu, "gradient_checkpointing": False, "max_length": None},
            **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "completion_only_loss": True},
        ),
        train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(settings["model"]),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules=r".*text_model.*\.(q|k|v|o|gate|up|down)_proj"
        ),
        callbacks=[Clock()],
    )
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    warm = min(WARM, len(times) - 2)
    taken = torch.cuda.max_memory_reserved() if on_gpu else 0
    return {"step_s": (times[-1] - times[warm]) / (len(times) - 1 - warm), "memory_gb": taken / 1e9}


def engine(job: Told) -> Told:
    """The engine's first token and its tokens a second, base alone."""
    from PIL import Image

    from vlm.inference import Engine
    from vlm.settings import ModelSettings

    base = str(Path(job["folder"]) / job["base"])
    precision = "fp32" if job["device"] == "cpu" else "bf16"
    settings = ModelSettings(model=base, device=job["device"], precision=precision)
    picture, asked, found = Image.new("RGB", (512, 512), "teal"), Engine(), []
    for _ in range(3):
        began, first, answer = time.perf_counter(), None, None
        for (answer,) in asked.ask(settings, picture, "What is this?", [None], job["answer_tokens"]):
            first = first or (time.perf_counter() - began if answer.tokens else None)
        assert answer is not None
        assert first is not None
        took = time.perf_counter() - began - first
        found.append((first, (answer.tokens - 1) / took if answer.tokens > 1 else 0.0))
    first_s, rate = min(each[0] for each in found[1:]), max(each[1] for each in found[1:])
    return {"first_token_s": first_s, "tokens_s": rate}


def stop_and_resume(job: Told) -> Told:
    """How far the adapter of a stopped and resumed run is from that of an unbroken one; 0 on a CPU."""
    import safetensors.torch

    from training import runs
    from training.config import build
    from training.loop.train import train
    from training.loop.trainer import AdapterTrainer
    from training.runs.events import EventLog

    seen: list[int] = []

    class Counted(AdapterTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            return super().training_step(*args, **kwargs)

    tensors = []
    for name, stops in (("whole", False), ("stopped", True)):
        run = runs.prepare(build(settings_of({**job, "name": name}, "smolvlm", {"lora_dropout": 0.0})))
        seen.clear()
        half = job["steps"] // 2
        finished = train(
            run.config(),
            run,
            EventLog(run.events_path),
            lambda stops=stops, half=half: stops and len(seen) >= half,
            trainer_type=Counted,
        )
        assert finished != stops
        if stops:
            assert train(run.config(), run, EventLog(run.events_path), lambda: False)
        tensors.append(safetensors.torch.load_file(run.adapter_path / "adapter_model.safetensors"))
    apart = [float((one - tensors[1][name]).abs().max()) for name, one in tensors[0].items()]
    return {"apart": max(apart), "largest": max(float(one.abs().max()) for one in tensors[0].values())}


def several_cards(job: Told) -> Told:
    """A run on all cards through NCCL, beside the same global batch on one."""
    import torch

    cards = torch.cuda.device_count()
    if cards < 2:
        return {"not_here": f"{cards} cards"}
    from training.config import as_flags, build

    took = {}
    for processes in (1, cards):
        settings = settings_of({**job, "name": f"cards-{processes}"}, "smolvlm", {"processes": processes})
        began = time.perf_counter()
        flags = as_flags({name: value for name, value in settings.items() if value is not None}).split()
        build(settings)
        subprocess.run([sys.executable, "-m", "training", "run", *flags], check=True, capture_output=True)
        took[processes] = time.perf_counter() - began
    return {"seconds": took}


PARTS: dict[str, Callable[[Told], Told]] = {
    "machine": machine,
    "make smolvlm": make,
    "make qwen3_vl": make,
    "bf16 LoRA": training_run,
    "TRL": trl_run,
    "stop and resume": stop_and_resume,
    "engine": engine,
    **dict.fromkeys([*RUNS][1:], training_run),
    "2 B engine": engine,
    "several cards": several_cards,
}
"""What is needed first stands first, then what is asked for most: time may run out."""


def child(job: Told) -> Told:
    """What a part has found; `not_here` says in words why it can't be had on this machine."""
    from vlm.errors import UserError

    try:
        return PARTS[job["part"]](job)
    except UserError as refused:
        return {"not_here": str(refused)}
    except ModuleNotFoundError as missing:
        return {"not_here": f"no {missing.name}"}


def told(job: Told, limit_s: float) -> Told:
    """Runs a part in a process of its own; `failed` has its last words."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", json.dumps(job)]
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    try:
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=limit_s, env=os.environ | offline
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:.0f} s"}
    found = (
        {"failed": ended.stderr[-1500:]} if ended.returncode else json.loads(ended.stdout.splitlines()[-1])
    )
    return found | {"seconds": round(time.monotonic() - began, 1)}


def row(part: str, found: Told) -> str:
    if "not_here" in found or "failed" in found:
        kind = "not_here" if "not_here" in found else "failed"
        words = found[kind].strip().splitlines()
        return (
            f"| {part} | {kind.replace('_', ' ')}: {words[-1 if kind == 'failed' else 0] if words else ''} |"
        )
    parts = (
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.items()
    )
    return f"| {part} | {', '.join(parts)} |"


def jobs(given: argparse.Namespace, folder: str) -> Iterator[Told]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = given.tiny or device == "cpu"
    for number, part in enumerate(PARTS):
        if given.only and part not in (*given.only, "machine", "make smolvlm", "make qwen3_vl"):
            continue
        base = "qwen3_vl" if part in ("make qwen3_vl", "2 B engine") else "smolvlm"
        job = {"part": part, "folder": folder, "name": f"part-{number}", "device": device, "tiny": tiny}
        job |= {"base": base, "steps": 6 if tiny else STEPS, "images": 4 if tiny else IMAGES}
        yield job | {"answer_tokens": 8 if tiny else 128}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="what does not begin by then is left out")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part, and what it needs")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a GPU too")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child)))
        return 0
    ends, found = time.monotonic() + 60 * given.minutes, {}
    print("| part | found |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for job in jobs(given, folder):
            left_s = ends - time.monotonic()
            limit_s = min(left_s, MAKE_S if job["part"].startswith("make") else LONGEST_PART_S)
            part = job["part"]
            found[part] = told(job, limit_s) if left_s > 5 else {"not_here": "no time was left"}
            print(row(part, found[part]), flush=True)
    print(json.dumps(found))
    return int(any("failed" in each for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
