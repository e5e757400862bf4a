"""LLaMA-Factory and ms-swift for benchmarks.training, each in an environment of its own that is named to it.

Each gets the benchmark's dataset in its own layout and the recipe in its own words, and runs its own command
line in a child. Seconds and losses are what its trainer wrote down: the training loop alone, without what it
encodes before. Memory is looked at from outside (on Linux): what RssAnon of the child and its children grows
by after the line that it prints as its training starts. Neither knows SmolVLM: peer_llamafactory.py and
peer_swift.py register it with the functions that each has for a model of one's own. Tried with:

    python3.11 -m venv lf && lf/bin/pip install llamafactory==0.9.5 num2words
    python3.11 -m venv swift && swift/bin/pip install ms-swift==4.6.0 num2words torchvision
    python -m benchmarks.training --llamafactory-python lf/bin/python --swift-python swift/bin/python
"""

import argparse
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

Told = dict[str, Any]

EVERY_S = 0.02
HERE = Path(__file__).resolve().parent
LONGEST = 2048


def conversations(dataset: Path) -> list[Told]:
    """The rows of a folder with metadata.jsonl as messages and images, an image's place written `<image>`."""
    rows = [json.loads(line) for line in (dataset / "metadata.jsonl").read_text().splitlines()]
    return [
        {
            "messages": [
                {"role": "user", "content": f"<image>{row['question']}"},
                {"role": "assistant", "content": row["answer"]},
            ],
            "images": [str(dataset / row["file_name"])],
        }
        for row in rows
    ]


def llamafactory_dataset(dataset: Path, folder: Path) -> None:
    """LLaMA-Factory's sharegpt layout: rows.json, and dataset_info.json that says what is what."""
    (folder / "rows.json").write_text(json.dumps(conversations(dataset)))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    about = {"file_name": "rows.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": about}))


def swift_dataset(dataset: Path, folder: Path) -> None:
    """ms-swift's layout: a row of JSON a line, messages and images."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, conversations(dataset))))


def recipe(job: Told) -> Told:
    """What both call by the names of transformers' TrainingArguments."""
    return {
        **{"per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": 1},
        **{"num_train_epochs": job["epochs"], "learning_rate": job["rate"], "lr_scheduler_type": "constant"},
        **{"warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "adam_beta2": 0.999},
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 0, "use_cpu": True},
        **{"bf16": False, "fp16": False, "dataloader_num_workers": 0},
        **{"lora_rank": job["lora_r"], "lora_alpha": 2 * job["lora_r"], "lora_dropout": 0.0},
    }


def llamafactory_command(python: Path, job: Told, folder: Path) -> list[str]:
    settings = recipe(job) | {
        **{"model_name_or_path": job["model"], "stage": "sft", "do_train": True, "template": "smolvlm"},
        **{"finetuning_type": "lora", "lora_target": "all", "freeze_vision_tower": True},
        **{"freeze_multi_modal_projector": True, "disable_gradient_checkpointing": True},
        **{"dataset": "rows", "dataset_dir": str(folder), "cutoff_len": LONGEST, "packing": False},
        **{"output_dir": str(folder / "out"), "infer_dtype": "float32", "flash_attn": "sdpa"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return [str(python), str(HERE / "peer_llamafactory.py"), "train", str(folder / "recipe.yaml")]


def swift_command(python: Path, job: Told, folder: Path) -> list[str]:
    settings = recipe(job) | {
        **{"model": job["model"], "model_type": "smolvlm", "tuner_type": "lora", "torch_dtype": "float32"},
        **{"external_plugins": HERE / "peer_swift.py", "dataset": folder / "rows.jsonl"},
        **{"target_modules": "all-linear", "freeze_vit": True, "freeze_aligner": True, "packing": False},
        **{"gradient_checkpointing": False, "vit_gradient_checkpointing": False, "max_length": LONGEST},
        **{"split_dataset_ratio": 0, "eval_strategy": "no", "attn_impl": "sdpa", "use_hf": True},
        **{"output_dir": folder / "out", "add_version": False},
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", _flag(value))]
    return [str(python.parent / "swift"), "sft", *flags]


def _flag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def llamafactory_history(out: Path) -> list[Told]:
    """What its trainer logged."""
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def swift_history(out: Path) -> list[Told]:
    """What its trainer logged: the last line of logging.jsonl holds all of it."""
    return json.loads((out / "logging.jsonl").read_text().splitlines()[-1])["log_history"]


def timed(history: Iterable[Told]) -> Told:
    """Seconds and losses of a trainer's `log_history`."""
    told = list(history)
    seconds = next(row["train_runtime"] for row in told if "train_runtime" in row)
    return {"seconds": float(seconds), "losses": [float(row["loss"]) for row in told if "loss" in row]}


@dataclass(frozen=True)
class Peer:
    """A tool in an environment of its own. `starts` is in the line that it prints as training starts."""

    package: str
    starts: str
    convert: Callable[[Path, Path], None]
    command: Callable[[Path, Told, Path], list[str]]
    history: Callable[[Path], list[Told]]


PEERS = {
    "llamafactory": Peer(
        "llamafactory",
        "***** Running training *****",
        llamafactory_dataset,
        llamafactory_command,
        llamafactory_history,
    ),
    "swift": Peer(
        "ms-swift", "The logging file will be saved in", swift_dataset, swift_command, swift_history
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For each peer the Python of its environment; from the environment's variables if not given."""
    for name in PEERS:
        variable = f"{name.upper()}_PYTHON"
        parser.add_argument(
            f"--{name}-python",
            type=_python,
            default=os.environ.get(variable),
            help=f"Python of an environment with {PEERS[name].package}, to be measured too; or {variable}",
        )


def given_peers(given: argparse.Namespace) -> dict[str, Path]:
    """The peers whose Python is given, and where it is."""
    named = {name: getattr(given, f"{name}_python") for name in PEERS}
    return {name: python for name, python in named.items() if python}


def _python(text: str) -> Path:
    """Absolute, but not resolved: an environment's Python is a link."""
    if not (python := Path(text).absolute()).is_file():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return python


def version(name: str, python: Path) -> str | None:
    """The peer's version; None where that environment hasn't got it."""
    asked = f"from importlib.metadata import version; print(version({PEERS[name].package!r}))"
    told = subprocess.run([python, "-c", asked], check=False, capture_output=True, text=True)
    return told.stdout.strip() or None


def rss_anon(process: psutil.Process) -> int:
    """Bytes of a process that belong to no file; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


class OutsideWatch:
    """Growth of a process and its children since `start`, at its peak, looked at from outside."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.base, self.peak, self.done = None, 0, threading.Event()

    def start(self) -> None:
        self.base = self._now()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.done.wait(EVERY_S):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        try:
            return sum(map(rss_anon, [self.process, *self.process.children(recursive=True)]))
        except psutil.NoSuchProcess:
            return 0


@dataclass(frozen=True)
class Watched:
    """How a process ended, what it printed, and what it grew by, in bytes; None if it never began."""

    code: int
    lines: list[str]
    growth: int | None


def watched(command: list[str], folder: Path, environment: dict[str, str], starts: str) -> Watched:
    """Runs a command, and watches it from the line with `starts` in it."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch, lines = OutsideWatch(child.pid), []
    for line in child.stdout:
        lines.append(line.rstrip())
        if watch.base is None and starts in line:
            watch.start()
    watch.done.set()
    return Watched(child.wait(), lines, None if watch.base is None else watch.peak - watch.base)


def run_peer(name: str, python: Path, job: Told) -> Told:
    """Seconds, memory and losses of one run; `problem` in their place, in one line, where it failed."""
    peer, folder = PEERS[name], Path(job["folder"]) / name
    folder.mkdir()
    peer.convert(Path(job["dataset"]), folder)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONUNBUFFERED": "1"}
    environment |= dict.fromkeys(("HF_HOME", "MODELSCOPE_CACHE"), str(folder / "home"))
    ran = watched(peer.command(python, job, folder), folder, environment, peer.starts)
    (folder / "output.log").write_text("\n".join(ran.lines))
    if ran.code or ran.growth is None:
        return {"problem": next((line for line in reversed(ran.lines) if "Error" in line), "no training")}
    return timed(peer.history(folder / "out")) | {"memory_gb": ran.growth / 1e9}


def compare_peers(pythons: dict[str, Path], job: Told) -> dict[str, Told]:
    """Each peer's run and version, printed as a row of benchmarks.training's table."""
    found = {}
    for name, python in pythons.items():
        there, package = version(name, python), PEERS[name].package
        told = run_peer(name, python, job) if there else {"problem": f"{package} is not in that environment"}
        found[name] = {"version": there} | told
        print(row(f"{package} {there or ''}".strip(), told, job["examples"]), flush=True)
    return found


def row(tool: str, told: Told, examples: int) -> str:
    begin = f"| text, vision frozen | {tool}, memory seen from outside |"
    if "problem" in told:
        return f"{begin} | | | failed: {told['problem'].replace('|', ' ')} |"
    seconds, losses = told["seconds"], told["losses"]
    return (
        f"{begin} {examples / seconds:.2f} | {seconds:.0f} | {told['memory_gb']:.2f} |"
        f" {losses[0]:.3f} to {losses[-1]:.3f} |"
    )


def ratios(found: dict[str, Told], ours: Told) -> dict[str, float]:
    """How many times as long as ours each peer trained that did."""
    return {
        f"ratio_vs_{name}_frozen_vision": told["seconds"] / ours["seconds"]
        for name, told in found.items()
        if "seconds" in told
    }
