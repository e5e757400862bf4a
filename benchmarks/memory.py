"""How near the estimate of a run's memory is, and how long it takes: `python -m benchmarks.memory`.

Each row is a real run in a process of its own, as the worker carries it out: loading, image features,
evaluation, two steps, evaluation, saving. Measured is the growth of RssAnon, which Linux alone has, over what
the process had with everything imported, at its peak. Prints tables, then one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from training.config import build

EVERY_S = 0.005
ROWS, PICTURE = 48, (640, 480)
QUESTION = "What is to be seen in this picture, and where is it?"
ANSWER = "a coloured field, from edge to edge"
# An estimate is of settings that are chosen.
PLAIN = {"quantization": "none", "gradient_checkpointing": False, "gradient_accumulation_steps": 1}
STEPS = {"max_steps": 2, "held_out": 0, "evaluations": 0, "sample_answers": 0}
EVALUATED = {"held_out": 0.25, "evaluations": 1, "eval_examples": 4, "max_new_tokens": 1}
BOTH = {"use_vision_lora": True}
AGAIN = {"gradient_checkpointing": True}

PAIRS: dict[str, tuple[str, dict]] = {
    "SmolVLM-like, text, evaluated": ("smolvlm", {"batch_size": 2, **EVALUATED}),
    "SmolVLM-like, vision and text": ("smolvlm", {"batch_size": 2, **BOTH}),
    "SmolVLM-like, text, two processes": ("smolvlm", {"batch_size": 1, "processes": 2}),
    "SmolVLM-like, vision and text, checkpointing": ("smolvlm", {"batch_size": 8, **BOTH, **AGAIN}),
    "Qwen2-VL-like, text": ("qwen2_vl", {"batch_size": 2}),
    "Qwen2-VL-like, text, checkpointing": ("qwen2_vl", {"batch_size": 6, **AGAIN}),
    "LLaVA-like, text, 4 bits": ("llava", {"batch_size": 2, "quantization": "4bit"}),
    "LLaVA-like, text, 8 bits": ("llava", {"batch_size": 2, "quantization": "8bit"}),
    "LLaVA-like, text, DoRA": ("llava", {"batch_size": 1, "method": "dora"}),
    "DINOv2 + BART, text, features cached": ("dinov2+bart", {"batch_size": 8}),
    "DINOv2 + BART, vision and text": ("dinov2+bart", {"batch_size": 4, **BOTH}),
}
CONFIGURATIONS = ("DINOv2-base + BARTpho-syllable", "Qwen3-VL-2B", "LLaVA-1.5-7B", "Qwen3-VL-8B")


@dataclass(frozen=True)
class Result:
    """One run: estimated and measured growth in GB, and how far the estimate is off."""

    pair: str
    estimated_gb: float
    measured_gb: float
    off: float
    run_s: float
    parts_gb: dict[str, float]


def rss_anon(processes: int = 1) -> int:
    """Bytes of this process, and of those that it has started where there are several, that are no file's."""
    started = psutil.Process().children(recursive=True) if processes > 1 else []
    total = 0
    for process in (os.getpid(), *(child.pid for child in started)):
        with suppress(OSError):  # it has ended meanwhile
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
    return total


def run_and_watch(settings: dict) -> dict[str, float]:
    """In a child: the growth of RssAnon over the imports, at its peak, during one run of the worker."""
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401

    import training.loop.train  # noqa: F401
    from training import runs
    from training.loop import worker

    run = runs.prepare(build(PLAIN | settings))
    before, peak, done = rss_anon(), [0], threading.Event()

    processes = run.config().processes

    def watch() -> None:
        while not done.wait(EVERY_S):
            peak[0] = max(peak[0], rss_anon(processes))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    code = worker.main(run)
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"the run ended with {code}: {run.status().problem}")
    return {"before": before, "growth": peak[0] - before, "run_s": time.perf_counter() - began}


def estimated(settings: dict) -> dict[str, int]:
    """In a child: the parts of the estimate that grow over the imports and belong to no file.

    As run, check, page and the command `memory` have it: of what a check has measured.
    """
    from training.data.row import say_nothing
    from training.data.validate.dataset_check import check_configured
    from training.data.validate.model_check import check_with_model
    from training.data.validate.token_counter import token_counter
    from training.memory.estimate import IMPORTED, Examples, estimate

    config = build(PLAIN | settings)
    report = check_with_model(check_configured(config, say_nothing), token_counter(config))
    parts = asdict(estimate(config, Examples.longest(report.dataset.examples, report.facts, report.lengths)))
    parts["weights"] -= parts.pop("mapped")
    parts["overhead"] -= IMPORTED
    del parts["device"]
    return parts


def make(wanted: dict[str, str]) -> str:
    """In a child, so that its memory is given back: write a model's folder; the `model` setting for it."""
    from benchmarks.memory_models import MAKERS

    return MAKERS[wanted["name"]](Path(wanted["folder"]))


def in_child(what: str, argument: Any) -> Any:
    """One of `CHILDREN` in a fresh process, on one thread."""
    command = [sys.executable, "-m", "benchmarks.memory", f"--{what}", json.dumps(argument)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise SystemExit(f"{argument}\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def make_dataset(folder: Path) -> None:
    folder.mkdir()
    lines = []
    for number in range(ROWS):
        name = f"{number}.png"
        Image.new("RGB", PICTURE, (5 * number, 80, 255 - 5 * number)).save(folder / name)
        lines.append(json.dumps({"file_name": name, "question": QUESTION, "answer": ANSWER}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def measure(pair: str, root: Path, model: str) -> Result:
    settings = {
        "model": model,
        "dataset": str(root / "dataset"),
        "workspace": str(root / "workspace"),
        "name": f"run-{list(PAIRS).index(pair)}",
        "device": "cpu",
        **STEPS,
        **PAIRS[pair][1],
    }
    parts = in_child("estimate", settings)
    watched = in_child("run", settings)
    expected = sum(parts.values())
    return Result(
        pair,
        expected / 1e9,
        watched["growth"] / 1e9,
        expected / watched["growth"] - 1,
        watched["run_s"],
        {name: round(size / 1e9, 3) for name, size in parts.items()},
    )


def time_redraws(model: str) -> dict[str, float]:
    """In a child, seconds: the first counts and estimate of a model, and the slowest after a change."""
    import torch  # noqa: F401 - the page warms it up

    from training.memory import simulate  # noqa: F401
    from training.memory.estimate import best_remedy, estimate
    from vlm import adapters  # noqa: F401
    from vlm.meta_model import tower_counts

    settings = {"model": model, "device": "cpu", "batch_size": 4}
    changes = [BOTH, {**BOTH, "vision_lora_r": 4}, {"text_lora_r": 32}, {"method": "dora"}, AGAIN]
    seconds: dict[str, list[float]] = {"counts": [], "estimate": []}
    for change in [{}, *changes, {"batch_size": 16}, {"quantization": "4bit"}]:
        config = build(PLAIN | settings | change)
        for what, asked in (("counts", tower_counts), ("estimate", estimate)):
            began = time.perf_counter()
            asked(config)
            seconds[what].append(time.perf_counter() - began)
    began = time.perf_counter()
    best_remedy(build(PLAIN | settings), 8 << 30)
    found = {"first": seconds["counts"][0] + seconds["estimate"][0], "remedy": time.perf_counter() - began}
    return found | {what: max(times[1:]) for what, times in seconds.items()}


CHILDREN: dict[str, Callable[[Any], Any]] = {
    "run": run_and_watch,
    "estimate": estimated,
    "redraw": time_redraws,
    "make": make,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PAIRS, action="append", help="do these pairs, and not the others")
    parser.add_argument("--folder", type=Path, help="keep the models here, and use those that are here")
    for name in CHILDREN:
        parser.add_argument(f"--{name}", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, work in CHILDREN.items():
        if (argument := getattr(arguments, name)) is not None:
            print(json.dumps(work(argument)))
            return
    with tempfile.TemporaryDirectory() as folder:
        report(arguments.only or list(PAIRS), Path(folder), arguments.folder or Path(folder))


def report(pairs: list[str], root: Path, models: Path) -> None:
    make_dataset(root / "dataset")
    print("| model and settings | estimated, GB | measured, GB | off by | run, s |\n|---|---|---|---|---|")
    results = []
    for pair in pairs:
        halves = PAIRS[pair][0].split("+")
        for half in halves:
            if not (models / half).exists():
                in_child("make", {"name": half, "folder": str(models / half)})
        results.append(measure(pair, root, "+".join(str(models / half) for half in halves)))
        r = results[-1]
        print(
            f"| {pair} | {r.estimated_gb:.2f} | {r.measured_gb:.2f} | {r.off:+.0%} | {r.run_s:.0f} |",
            flush=True,
        )
    print(
        "\n| configuration alone | first use, s | counts, s | estimate, s | remedy, s |\n"
        "|---|---|---|---|---|"
    )
    times = {}
    for name in CONFIGURATIONS:
        folders = in_child("make", {"name": name, "folder": str(root / name)})
        t = times[name] = in_child("redraw", folders)
        print(
            f"| {name} | {t['first']:.1f} | {t['counts']:.2f} | {t['estimate']:.2f} | {t['remedy']:.1f} |",
            flush=True,
        )
    print(json.dumps({"results": [asdict(result) for result in results], "seconds": times}))


if __name__ == "__main__":
    main()
