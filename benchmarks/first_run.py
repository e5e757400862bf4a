"""What the first run teaches, and how long it takes: `python -m benchmarks.first_run`.

Trains with the command line, as a user would, then asks base and adapters 2,000 questions about scenes that
no run has seen, and 400 captions, which are scored apart. Prints a table, then one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from training.batching.collator import Collator
from training.data.open import open_dataset
from training.data.synthetic.samples import SAMPLES, make_sample
from training.evaluation.evaluate import evaluate
from vlm import adapters
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

QUESTIONS = 2000
CAPTION_EVERY = 5
TEST_SEED = 770_077
# What a drawing style that the base has never seen takes: the vision tower at a third of its usual rate, a
# wider adapter there, the connector in full, and no dropout, which costs a sixth of the time.
NEW_CONCEPTS = (
    *("--epochs", "7", "--learning_rate", "1.5e-3", "--vision_learning_rate", "1e-3"),
    *("--use_vision_lora", "--vision_lora_r", "32", "--connector", "full", "--lora_dropout", "0"),
)
RUNS = {
    "shapes-vi, default settings": ("shapes-vi", []),
    "blueprints, text": ("blueprints", ["--epochs", "4"]),
    "blueprints, vision and text": ("blueprints", [*NEW_CONCEPTS]),
}


@dataclass(frozen=True)
class Result:
    """One model on one test set: `low` and `high` are the 95 % interval of `exact_match` (Wilson)."""

    model: str
    dataset: str
    exact_match: float
    low: float
    high: float
    caption_token_f1: float
    run_s: float | None = None


def ask(dataset: str, folder: Path, adapter: Path | None, model: str, run_s: float | None = None) -> Result:
    """Answer the test set of `dataset` with the base or an adapter on it."""
    make_sample(
        dataset,
        folder / dataset,
        images=QUESTIONS,
        questions_per_image=1,
        caption_every=CAPTION_EVERY,
        seed=TEST_SEED,
    )
    loaded = load_base(ModelSettings())
    asked = adapters.load(loaded.model, adapter) if adapter else loaded.model
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, 512), None)
    examples = open_dataset(str(folder / dataset), folder).examples
    scores = evaluate(asked, collator, examples, 64, lambda done, total: None).scores
    metrics, (low, high) = scores.metrics, scores.intervals["exact_match"]
    return Result(model, dataset, metrics["exact_match"], low, high, metrics["caption_token_f1"], run_s)


def train(name: str, dataset: str, flags: list[str], workspace: Path) -> tuple[Path, float]:
    """One run of the command line; its adapter, and its wall time in seconds from Start to finished."""
    command = [sys.executable, "-m", "training", "run", "--workspace", str(workspace)]
    began = time.perf_counter()
    subprocess.run([*command, "--dataset", dataset, "--name", name, *flags], check=True)
    return workspace / "runs" / name / "adapter", time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=RUNS, help="do one of the runs, and not the others")
    parser.add_argument("--flags", default="", help="further flags for each run, in one text")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tests, results = Path(folder) / "tests", []
        results += [ask(dataset, tests, None, "base") for dataset in SAMPLES]
        for number, (label, (dataset, flags)) in enumerate(RUNS.items()):
            if arguments.only in (None, label):
                flags = [*flags, *arguments.flags.split()]
                adapter, run_s = train(f"run-{number}", dataset, flags, Path(folder) / "workspace")
                results.append(ask(dataset, tests, adapter, label, run_s))
    print("| model | asked about | exact match, 95 % interval | captions, token F1 | run, s |")
    print("|---|---|---|---|---|")
    for r in results:
        interval = f"{r.exact_match:.1%} ({r.low:.1%} to {r.high:.1%})"
        run_s = "" if r.run_s is None else f"{r.run_s:.0f}"
        print(f"| {r.model} | {r.dataset} | {interval} | {r.caption_token_f1:.2f} | {run_s} |")
    print(json.dumps({"questions": QUESTIONS, "results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    main()
