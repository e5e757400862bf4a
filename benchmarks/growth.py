"""How a run's time and memory grow: `python -m benchmarks.growth [--quick] [--plot docs/growth.svg]`.

Four series, on starter-sized models with cached features: images, questions about each, image tokens, and
the size of the vocabulary. Each point is a real run of the worker in a process of its own. Along the last two
the same run is made once more with the logits of every token, as a plain forward pass with labels makes them.

An exponent is the slope of a line through the logarithms, by least squares: 1 is in proportion, 0 is not at
all. Memory is what RssAnon grows by at its peak: *a run's* from the adapted model to the end of training, *a
step's* over what the process holds right before the first one. Prints tables, then one line of JSON.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.training import Watch

Told = dict[str, Any]

PICTURE, BATCH, STEPS, STEP_PICTURES = 96, 4, 6, 8
PATCH, SCALE, WIDTH = 16, 2, 192
QUESTION = "part"
LEAST = {"s": 1e-3, "ms": 1e-3, "gb": 1e-3}
"""What is less counts as so much: below, noise would have a logarithm."""


@dataclass(frozen=True)
class Series:
    """What grows, to which sizes, and what is measured at each."""

    grows: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    measures: tuple[str, ...]
    fixed: int = 0


RUN = ("encoding_s", "image_ms", "epoch_s", "example_ms", "run_gb")
STEP = ("step_s", "step_gb", "run_gb", "full_step_s", "full_step_gb", "full_run_gb")
SERIES = (
    Series("images", (100, 300, 1000, 3000, 10_000), (100, 300, 1000), RUN, fixed=1),
    Series("questions an image", (1, 2, 4, 8, 16), (1, 4, 16), RUN, fixed=300),
    Series("image tokens", (64, 144, 400, 1024), (64, 256), STEP, fixed=32_768),
    Series("vocabulary", (4096, 16_384, 65_536, 131_072), (4096, 65_536), STEP, fixed=256),
)
QUICK_FIXED = {"questions an image": 100, "image tokens": 16_384, "vocabulary": 64}
WORDS = {
    "encoding_s": "encoding, s",
    "image_ms": "an image, ms",
    "epoch_s": "an epoch, s",
    "example_ms": "an example, ms",
    "run_gb": "a run, GB",
    "step_s": "a step, s",
    "step_gb": "a step, GB",
    "full_step_s": "a step of all logits, s",
    "full_step_gb": "a step of all logits, GB",
    "full_run_gb": "a run of all logits, GB",
}


def exponent(sizes: Sequence[float], values: Sequence[float], least: float) -> float:
    """The n of value = c * size ** n that fits best, by least squares of the logarithms."""
    raised = np.maximum(np.asarray(values, dtype=float), least)
    return float(np.polyfit(np.log(sizes), np.log(raised), 1)[0])


def exponents(rows: Sequence[Mapping[str, float]], measures: Iterable[str]) -> dict[str, float]:
    """For each measure, how it grows with the rows' `size`."""
    sizes = [row["size"] for row in rows]
    return {
        name: exponent(sizes, [row[name] for row in rows], LEAST[name.rsplit("_", 1)[-1]])
        for name in measures
    }


def make_pictures(folder: Path, count: int, side: int) -> None:
    """PNGs of 8 x 8 fields of colour, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        fields = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        fields.resize((side, side), Image.Resampling.NEAREST).save(folder / f"{number}.png", compress_level=1)


def write_rows(folder: Path, images: int, questions: int) -> str:
    """A dataset on the first pictures of a folder; what `dataset` takes for it.

    No two pictures have the same answer: where texts are alike, exchanged pictures leave the sum of losses as
    it is, and the cache is not proved.
    """
    rows = [
        {"image": f"{number}.png", "question": f"{QUESTION} {asked:02}?", "answer": f"{number:05}"}
        for number in range(images)
        for asked in range(questions)
    ]
    file = folder / f"{images}-{questions}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def make_model(folder: Path, image_tokens: int, vocabulary: int) -> str:
    """SmolVLM's architecture at the starter's size, an image as so many tokens; what `model` takes."""
    import torch
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )
    from transformers.utils.logging import disable_progress_bar

    from benchmarks.memory_models import TEMPLATE, tokenizer

    disable_progress_bar()
    torch.manual_seed(0)
    words, side = tokenizer(), side_of(image_tokens)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 6}
    config = SmolVLMConfig(
        vision_config={**sizes, "num_hidden_layers": 2, "image_size": side, "patch_size": PATCH},
        text_config={
            **{"model_type": "llama", **sizes, "num_hidden_layers": 4, "num_key_value_heads": 2},
            **{"vocab_size": vocabulary, "max_position_embeddings": 8192},
            **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=1,
        scale_factor=SCALE,
    )
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    edge = {"longest_edge": side}
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=image_tokens,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)
    return str(folder)


def side_of(image_tokens: int) -> int:
    """Pixels on a side of the picture that becomes so many tokens."""
    return round(image_tokens**0.5) * PATCH * SCALE


def measure(job: Told) -> Told:
    """In a child: one run; when it encodes and steps, and what memory it takes meanwhile."""
    from transformers import TrainerCallback

    from training import runs
    from training.config import build
    from training.loop.train import train
    from training.loop.trainer import AdapterTrainer
    from training.runs.events import EventLog

    run, whole, stepping = runs.prepare(build(job["settings"])), Watch(), Watch()
    began, ended, encoding = [], [], []

    class Log(EventLog):
        def append(self, kind: str, **fields: Any) -> Told:
            event = super().append(kind, **fields)
            if kind == "started":
                whole.start()
            if fields.get("name") == "encoding images":  # at each batch of them, and at the end
                encoding.append(time.perf_counter())
            return event

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not began:  # the preflight is over; what it freed is given back
                if platform.libc_ver()[0] == "glibc":
                    ctypes.CDLL(None).malloc_trim(0)
                stepping.start()
            began.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

    class Measured(AdapterTrainer):
        def __init__(self, *args: Any, **more: Any) -> None:
            # The hardest examples read the logits once more.
            super().__init__(*args, **(more | {"hardest": None} if job["full"] else more))
            self.add_callback(Steps())
            if job["full"]:
                self.trims = False

    train(run.config(), run, Log(run.events_path), lambda: False, trainer_type=Measured)
    steps = [end - begin for begin, end in zip(began, ended, strict=True)]
    found = {"epoch_s": ended[-1] - began[0], "step_s": median(steps[1:]), "steps": len(steps)}
    memory = {"step_gb": stepping.stop()["memory_gb"], "run_gb": whole.stop()["memory_gb"]}
    return {"encoding_s": encoding[-1] - encoding[0]} | found | memory


def in_child(settings: Told, full: bool = False) -> Told:
    command = [sys.executable, "-m", "benchmarks.growth", "--child"]
    job = json.dumps({"settings": settings, "full": full})
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([*command, job], check=False, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise SystemExit(f"{job}\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def settings(root: Path, name: str, dataset: str, more: Told) -> Told:
    """A run without evaluations, in a workspace of its own: no features are there yet."""
    quiet = {"held_out": 0, "evaluations": 0, "sample_answers": 0, "logging_steps": 1000}
    own = {"name": "run", "workspace": str(root / name), "dataset": dataset, "device": "cpu"}
    return {**own, **quiet, "precision": "fp32", "cache_image_features": "on", **more}


def run_point(root: Path, series: Series, size: int, fixed: int) -> Told:
    """One epoch on the starter, on so many images or questions."""
    images, questions = (size, fixed) if series.grows == "images" else (fixed, size)
    dataset = write_rows(root / "pictures", images, questions)
    told = in_child(settings(root, f"{series.grows}-{size}", dataset, {"epochs": 1}))
    each = {"image_ms": told["encoding_s"] / images, "example_ms": told["epoch_s"] / (images * questions)}
    return told | {name: 1000 * seconds for name, seconds in each.items()}


def step_point(root: Path, series: Series, size: int, fixed: int) -> Told:
    """A few steps of a model with so many image tokens or words: as ours, and with all logits."""
    image_tokens, vocabulary = (size, fixed) if series.grows == "image tokens" else (fixed, size)
    name = f"{series.grows}-{size}"
    pictures = root / f"pictures of {name}"
    make_pictures(pictures, STEP_PICTURES, side_of(image_tokens))
    more = {"model": make_model(root / f"model-{name}", image_tokens, vocabulary)}
    more |= {"batch_size": BATCH, "max_steps": STEPS}
    dataset = write_rows(pictures, STEP_PICTURES, 1)
    ours, full = (
        in_child(settings(root, f"{name}-{all_logits}", dataset, more), all_logits)
        for all_logits in (False, True)
    )
    return ours | {f"full_{measure}": full[measure] for measure in ("step_s", "step_gb", "run_gb")}


def report(root: Path, series: Series, quick: bool) -> Told:
    """Measures one series and prints its table; its rows and exponents."""
    fixed = QUICK_FIXED.get(series.grows, series.fixed) if quick else series.fixed
    about = {
        "images": "the starter, one question each",
        "questions an image": f"the starter, {fixed} images",
        "image tokens": f"a step of {BATCH} examples, a vocabulary of {fixed:,}",
        "vocabulary": f"a step of {BATCH} examples, {fixed} image tokens",
    }[series.grows]
    print(f"\n{series.grows}: {about}\n")
    print(f"| {series.grows} | {' | '.join(WORDS[name] for name in series.measures)} |")
    print("|---" * (1 + len(series.measures)) + "|", flush=True)
    point, rows = run_point if series.measures is RUN else step_point, []
    for size in series.quick if quick else series.sizes:
        told = point(root, series, size, fixed)
        rows.append({"size": size, **{name: told[name] for name in series.measures}})
        print(f"| {size:,} | {' | '.join(f'{told[name]:.3g}' for name in series.measures)} |", flush=True)
    grown = exponents(rows, series.measures)
    print(f"| exponent | {' | '.join(f'{grown[name]:.2f}' for name in series.measures)} |", flush=True)
    return {"rows": rows, "exponents": grown, "fixed": fixed}


def plot(found: Mapping[str, Told], file: Path) -> None:
    """A panel for each series, both axes in logarithms; grey and colours that light and dark pages bear."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    grey = "#808080"
    look = {f"{what}.color": grey for what in ("xtick", "ytick", "text", "grid")}
    look |= {"axes.labelcolor": grey, "axes.edgecolor": grey, "axes.facecolor": "none", "grid.alpha": 0.3}
    look |= {"figure.facecolor": "none", "legend.frameon": False, "font.size": 8, "axes.ymargin": 0.2}
    with mpl.rc_context({**look, "svg.fonttype": "none", "svg.hashsalt": "growth"}):
        figure = Figure(figsize=(8, 3 * -(-len(found) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(found) // 2), 2, squeeze=False).flat
        for panel, (grows, told) in zip(panels, found.items(), strict=False):
            for name in drawn(told["exponents"]):
                values = [max(row[name], LEAST[name.rsplit("_", 1)[-1]]) for row in told["rows"]]
                panel.loglog(
                    [row["size"] for row in told["rows"]],
                    values,
                    "o--" if name.endswith("gb") else "o-",
                    color="#d1495b" if name.startswith("full") else "#3d8bd4",
                    markersize=3,
                    label=f"{WORDS[name]}: exponent {told['exponents'][name]:.2f}",
                )
            panel.set_xlabel(grows)
            panel.minorticks_off()
            panel.grid()
            panel.legend()
        for panel in list(figure.axes)[len(found) :]:
            panel.remove()
        figure.savefig(file, metadata={"Date": None})


def drawn(measures: Iterable[str]) -> list[str]:
    """Those of a series that are lines: not each one's time, and of a step's series not the run's memory."""
    names = [name for name in measures if not name.endswith("_ms")]
    return [name for name in names if not (name.endswith("run_gb") and "step_gb" in names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes")
    parser.add_argument(
        "--only", choices=[s.grows for s in SERIES], action="append", help="these series alone"
    )
    parser.add_argument("--plot", type=Path, help="draw the four series into this SVG")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child)))
        return
    chosen = [series for series in SERIES if given.only is None or series.grows in given.only]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = [
            size for s in chosen if s.grows == "images" for size in (s.quick if given.quick else s.sizes)
        ]
        make_pictures(root / "pictures", max([*sizes, SERIES[1].fixed]), PICTURE)
        found = {series.grows: report(root, series, given.quick) for series in chosen}
    grown = {grows: told["exponents"] for grows, told in found.items()}
    if given.plot is not None:
        plot(found, given.plot)
    print("\n" + json.dumps({"exponents": grown, "series": found}))


if __name__ == "__main__":
    main()
