"""LoRA Lens beside TRL's SFTTrainer and the plain Trainer: `python -m benchmarks.training [--quick]`.

One model, dataset and recipe; each tool in a process of its own, one after the other. A tool's time runs from
the adapted model in memory to the last step: it includes the encoding of images. Memory is what RssAnon (on
Linux) grows by meanwhile, at its peak. Prints a table, then one line of JSON.

Needs `pip install -r benchmarks/requirements.txt`. What has an environment of its own is in benchmarks.peers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import peers

BATCH, LORA_R, RATE = 4, 16, 1e-4
IMAGES, QUICK_IMAGES, EPOCHS = 24, 8, 3
EVERY_S = 0.01

Told = dict[str, Any]


def rss_anon() -> int:
    """Bytes of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


class Watch:
    """Seconds and growth of memory since `start`, until `stop`."""

    def start(self) -> None:
        self.base, self.peak, self.done = rss_anon(), 0, threading.Event()
        self.began = time.perf_counter()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.done.wait(EVERY_S):
            self.peak = max(self.peak, rss_anon())

    def stop(self) -> Told:
        self.done.set()
        return {
            "seconds": time.perf_counter() - self.began,
            "memory_gb": (max(self.peak, rss_anon()) - self.base) / 1e9,
        }


def lora_lens(job: Told) -> Told:
    """Our run as it is; noted are its order, its adapter before the first step, and when things happen."""
    from training import runs
    from training.batching.collator import BATCH_INFO
    from training.config import build
    from training.loop.train import train
    from training.loop.trainer import AdapterTrainer
    from training.runs.events import EventLog
    from vlm import adapters

    settings = {
        **{"model": job["model"], "dataset": job["dataset"], "workspace": job["folder"], "device": "cpu"},
        **{"name": job["name"], "batch_size": BATCH, "epochs": job["epochs"], "learning_rate": RATE},
        **{"text_lora_r": LORA_R, "text_lora_alpha": 2 * LORA_R, "lora_dropout": 0.0, "precision": "fp32"},
        **{"lr_scheduler_type": "constant", "warmup_steps": 0, "held_out": 0, "evaluations": 0},
        **{"sample_answers": 0, "logging_steps": 1},
    }
    if job["vision"]:
        settings |= {"use_vision_lora": True, "vision_lora_r": LORA_R, "vision_lora_alpha": 2 * LORA_R}
    settings |= {"group_by_image": job["together"]}
    run, watch = runs.prepare(build(settings)), Watch()
    order, lengths, times = [], [], {}

    class Log(EventLog):
        def append(self, kind: str, **fields: Any) -> Told:
            event = super().append(kind, **fields)
            if kind == "started":
                watch.start()
            return event

    class Measured(AdapterTrainer):
        def training_step(self, model: Any, inputs: Told, *args: Any, **kwargs: Any) -> Any:
            times.setdefault("began", time.perf_counter())
            order.append(inputs[BATCH_INFO].example_ids)
            lengths.append([inputs["input_ids"].numel(), int((inputs["labels"] != -100).sum())])
            return super().training_step(model, inputs, *args, **kwargs)

        def train(self, *args: Any, **kwargs: Any) -> Any:
            adapters.save(self.model, Path(job["folder"]) / "start")
            result = super().train(*args, **kwargs)
            times["ended"] = time.perf_counter()
            times.update(watch.stop())
            return result

    train(run.config(), run, Log(run.events_path), lambda: False, trainer_type=Measured)
    losses = [event["loss"] for event in run.events({"step"})]
    steps_s = times["ended"] - times["began"]
    found = {name: times[name] for name in ("seconds", "memory_gb")}
    return found | {"losses": losses, "order": order, "lengths": lengths, "steps_s": steps_s}


def peer(job: Told) -> tuple[Any, Any, list[Told]]:
    """What a peer starts from: the adapted model as ours was before its first step, processor, examples."""
    import torch
    from peft import PeftModel
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    base = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, Path(job["folder"]) / "start", is_trainable=True)
    rows = [json.loads(line) for line in (Path(job["dataset"]) / "metadata.jsonl").read_text().splitlines()]
    examples = []
    for row in rows:
        asked = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        examples.append(
            {
                "images": [Path(job["dataset"]) / row["file_name"]],
                "prompt": [{"role": "user", "content": asked}],
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}],
            }
        )
    for example in examples:
        example["load"] = lambda example=example: [Image.open(file) for file in example["images"]]
    return model, AutoProcessor.from_pretrained(job["model"]), examples


def arguments(job: Told) -> Told:
    """The recipe, for a `TrainingArguments` of any kind."""
    return {
        **{"output_dir": str(Path(job["folder"]) / job["tool"]), "per_device_train_batch_size": BATCH},
        **{"num_train_epochs": job["epochs"], "learning_rate": RATE, "lr_scheduler_type": "constant"},
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "seed": 0},
        **{"bf16": False, "remove_unused_columns": False, "disable_tqdm": True},
        "gradient_checkpointing": False,
    }


def trl(job: Told) -> Told:
    """SFTTrainer as its documentation has it for a vision-language model, on prompt and completion."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    model, processor, examples = peer(job)
    features = datasets.Sequence(datasets.Image())
    rows = [{name: example[name] for name in ("prompt", "completion")} for example in examples]
    watch = Watch()
    watch.start()
    data = datasets.Dataset.from_list(rows).add_column(
        "images", [[str(file) for file in example["images"]] for example in examples]
    )
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**arguments(job), max_length=None, completion_only_loss=True),
        train_dataset=data.cast_column("images", features),
        processing_class=processor,
    )
    trainer.train()
    return watch.stop() | {"losses": [row["loss"] for row in trainer.state.log_history if "loss" in row]}


def plain(job: Told) -> Told:
    """transformers' Trainer with a collator of a few lines, in the order in which ours went."""
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    model, processor, examples = peer(job)
    turns = json.loads((Path(job["folder"]) / "order.json").read_text())
    places = [[int(name.rsplit(":", 1)[-1]) - 1 for name in turn] for turn in turns]  # lines count from 1

    def collate(batch: list[Told]) -> Told:
        def written(messages: list[Told], more: bool = False) -> str:
            return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)

        prompts = [written(example["prompt"], more=True) for example in batch]
        wholes = [written(example["prompt"] + example["completion"]) for example in batch]
        images = [example["load"]() for example in batch]
        inputs = processor(text=wholes, images=images, padding=True, return_tensors="pt")
        asked = processor(text=prompts, images=images, padding=True, return_tensors="pt")
        labels = inputs["input_ids"].clone()
        for row, length in enumerate(asked["attention_mask"].sum(1) - 1):  # the tokenizer closes with </s>
            ends = (labels[row] == processor.tokenizer.eos_token_id).nonzero().flatten()
            labels[row, :length] = -100
            labels[row, ends[ends >= length][0] + 1 :] = -100  # what the template puts after the answer
        labels[inputs["attention_mask"] == 0] = -100
        return {**inputs, "labels": labels}

    class InOrder(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(examples, batch_sampler=places, collate_fn=collate)

    watch = Watch()
    watch.start()
    once = arguments(job) | {"num_train_epochs": 1}  # `places` has the batches of all epochs
    trainer = InOrder(model, TrainingArguments(**once), train_dataset=examples, data_collator=collate)
    trainer.train()
    return watch.stop() | {"losses": [row["loss"] for row in trainer.state.log_history if "loss" in row]}


def matmul(job: Told) -> Told:
    """The fastest that this machine multiplies matrices of fp32, in operations a second."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return {"flops_s": best}


def make(job: Told) -> Told:
    from benchmarks.training_model import make_dataset, make_model

    if not Path(job["model"]).exists():
        make_model(Path(job["model"]))
    make_dataset(Path(job["dataset"]), job["images"])
    return {}


TOOLS: dict[str, Callable[[Told], Told]] = {
    function.__name__: function for function in (lora_lens, trl, plain, matmul, make)
}


def in_child(job: Told) -> Told:
    command = [sys.executable, "-m", "benchmarks.training", "--child", json.dumps(job)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise SystemExit(f"{job}\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


@contextmanager
def placed(given: Path | None) -> Iterator[Path]:
    """The folder for the model: one that is kept, or one that goes."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def compare(job: Told, trained: str, tools: list[str]) -> dict[str, Told]:
    """Each tool on the same start; ours first, because the others take over its adapter and its order."""
    found = {}
    for number, tool in enumerate(tools):
        name = f"{tool.replace('_', '-')}-{job['vision']:d}{job['together']:d}{number}"
        told = in_child(job | {"tool": tool, "name": name})
        if tool == "lora_lens":
            (Path(job["folder"]) / "order.json").write_text(json.dumps(told["order"]))
        found[tool] = told
        speed = job["examples"] / told["seconds"]
        first, last = told["losses"][0], told["losses"][-1]
        print(
            f"| {trained} | {tool} | {speed:.2f} |"
            f" {told['seconds']:.0f} | {told['memory_gb']:.2f} | {first:.3f} to {last:.3f} |",
            flush=True,
        )
    return found


def share_of_limit(ours: Told, flops_s: float) -> float:
    """The least time that the steps' multiplications take at the measured peak, over the time they took."""
    from benchmarks.training_model import text_flops

    needed = sum(
        BATCH * text_flops(tokens / BATCH, answers / BATCH, LORA_R) for tokens, answers in ours["lengths"]
    )
    return needed / flops_s / ours["steps_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_IMAGES} images instead of {IMAGES}")
    parser.add_argument("--images", type=int, help="so many images")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--folder", type=Path, help="keep the model here, and use the one that is here")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    peers.add_arguments(parser)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(TOOLS[given.child["tool"]](given.child)))
        return
    from benchmarks.training_model import QUESTIONS

    images = given.images or (QUICK_IMAGES if given.quick else IMAGES)
    with tempfile.TemporaryDirectory() as folder, placed(given.folder) as kept:
        job = {"folder": folder, "model": str(kept / "smolvlm"), "dataset": str(Path(folder) / "data")}
        job |= {
            "vision": False,
            "together": False,
            "epochs": given.epochs,
            "images": images,
            "examples": images * QUESTIONS * given.epochs,
        }
        in_child(job | {"tool": "make"})
        peak = in_child(job | {"tool": "matmul"})["flops_s"]
        print(
            f"{images} images, {QUESTIONS} questions each, {given.epochs} epochs;"
            f" matrices multiply at {peak / 1e9:.0f} GFLOP/s\n\n"
            "| trained | tool | examples/s | seconds | memory, GB | loss |\n|---|---|---|---|---|---|",
            flush=True,
        )
        frozen = compare(job, "text", ["lora_lens", "plain", "trl"])
        recipe = job | {"batch": BATCH, "rate": RATE, "lora_r": LORA_R}
        beside = peers.compare_peers(peers.given_peers(given), recipe)
        together = compare(job | {"together": True}, "text, questions of an image together", ["lora_lens"])[
            "lora_lens"
        ]
        both = compare(
            job | {"vision": True, "together": True}, "vision and text, together", ["lora_lens", "trl"]
        )
    ours, theirs = frozen["lora_lens"], frozen["trl"]
    apart = max(abs(a - b) for a, b in zip(ours["losses"], frozen["plain"]["losses"], strict=False))
    found = {
        "images": images,
        "epochs": given.epochs,
        "ratio_vs_trl_frozen_vision": theirs["seconds"] / ours["seconds"],
        "ratio_vs_trl_vision_lora": both["trl"]["seconds"] / both["lora_lens"]["seconds"],
        "ratio_vs_trl_frozen_vision_together": theirs["seconds"] / together["seconds"],
        "share_of_matmul_limit": share_of_limit(ours, peak),
        "memory_vs_trl": ours["memory_gb"] / theirs["memory_gb"],
        "memory_vs_trl_together": together["memory_gb"] / theirs["memory_gb"],
        "losses_apart_from_plain": apart,
        "matmul_gflops": peak / 1e9,
    }
    found |= peers.ratios(beside, ours) | {"peers": beside}
    print(json.dumps(found | {"frozen": slim(frozen | {"together": together}), "both": slim(both)}))


def slim(found: dict[str, Told]) -> dict[str, Told]:
    return {
        tool: {k: v for k, v in told.items() if k not in ("order", "lengths")} for tool, told in found.items()
    }


if __name__ == "__main__":
    main()
