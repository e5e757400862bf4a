"""Answers timed: `python -m benchmarks.inference [--tiny] [--only PART …]`.

The engine beside plain `transformers.generate`, the `image-text-to-text` pipeline, plain PEFT, and itself
without what it saves. What is compared takes turns in one process (A B A B), each once unmeasured before, and
the figures are ratios of medians: on a machine that others use seconds say little. torch has one thread, and
each turn a thread of its own, for the engine's and the others' turns alike. Answers that should be equal are
compared. Prints a table, then one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import pipeline

from benchmarks import inference_models
from benchmarks.inference_models import Subject
from benchmarks.training import placed
from vlm import adapters
from vlm.example import IMAGE, Message
from vlm.inference import Answer, Engine
from vlm.models.loading import load_base
from vlm.prompting import prompt_style

ANOTHER = "Which colours are there?"
PROMPT_LENGTH = 4096

Answers = list[str]
# One turn of what is timed; it returns the answers.
Way = Callable[[], Answers]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked: turns of each way, tokens of an answer, pictures of a folder, rows of a batch."""

    turns: int = 5
    tokens: int = 24
    pictures: int = 100
    batch: int = 16


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure by the clock, and what is wanted of it: at most, or at least. `seconds` are medians.

    `by_cpu` is the same by CPU time, which others on the machine change less; no verdict is read off it.
    `equal`: whether the answers are; None where the two are asked different things.
    """

    what: str
    model: str
    value: float
    by_cpu: float
    wanted: float
    at_most: bool
    seconds: Mapping[str, float]
    equal: bool | None = None
    unit: str = "times"

    @property
    def reached(self) -> bool:
        within = self.value <= self.wanted if self.at_most else self.value >= self.wanted
        return within and self.equal is not False

    def row(self) -> str:
        times = ", ".join(f"{name} {seconds:.3f}" for name, seconds in self.seconds.items())
        bound = f"{'at most' if self.at_most else 'at least'} {self.wanted:g}"
        said = {None: "", True: "; equal answers", False: "; ANSWERS DIFFER"}[self.equal]
        verdict = "reached" if self.reached else "missed"
        found = f"{self.value:.2f} {self.unit} | {self.by_cpu:.2f}"
        return f"| {self.what} | {self.model} | {found} | {bound} | {verdict}{said} | {times} |"


@dataclass(frozen=True, slots=True)
class Timed:
    """Medians of one way's turns, by the clock and by the process's CPU time, and each turn's answers."""

    seconds: float
    cpu_s: float
    answers: list[Answers]


def alternate(ways: Mapping[str, Way], turns: int) -> dict[str, Timed]:
    """Returns what was found of each way; the turn before the first is not among it."""
    rounds = [[timed(way) for way in ways.values()] for _ in range(turns + 1)][1:]
    found = {}
    for name, each in zip(ways, zip(*rounds, strict=True), strict=True):
        seconds, cpu_s, answers = zip(*each, strict=True)
        found[name] = Timed(median(seconds), median(cpu_s), [*answers])
    return found


def timed(way: Way) -> tuple[float, float, Answers]:
    """Returns a turn's seconds, those of CPU, and its answers. What it raises is raised."""

    def turn() -> tuple[float, float, Answers]:
        began, cpu_began = time.perf_counter(), time.process_time()
        answers = way()
        return time.perf_counter() - began, time.process_time() - cpu_began, answers

    # In a thread of its own, as the engine's `generate`: on a busy machine two OpenMP threads took 7 times as
    # long for the same call from the main thread, and what is compared must not differ in that.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(turn).result()


def ratio(found: Mapping[str, Timed], over: str, under: str) -> dict[str, Any]:
    """Returns the part of a `Figure` that is the ratio of two ways."""
    top, bottom = found[over], found[under]
    return {
        "value": top.seconds / bottom.seconds,
        "by_cpu": top.cpu_s / bottom.cpu_s,
        "seconds": {name: way.seconds for name, way in found.items()},
    }


def ask(
    engine: Engine,
    subject: Subject,
    picture: Image.Image,
    who: Sequence[Path | None],
    tokens: int,
    question: str | None = None,
) -> Answers:
    asked = subject.question if question is None else question
    *_, answers = engine.ask(subject.settings, picture, asked, who, tokens)
    return [answer.text for answer in answers]


class Plain:
    """A base with transformers and PEFT alone, and the training's prompts: what is asked is the same."""

    def __init__(self, subject: Subject, folders: Sequence[Path] = ()) -> None:
        loaded = load_base(subject.settings)
        self.question = subject.question
        self.base, self.processor = loaded.model.eval(), loaded.processor
        self.prompt = prompt_style(self.base.config, self.processor, PROMPT_LENGTH)
        self.model: Any = self.base
        self.names = {folder: f"plain_{number}" for number, folder in enumerate(folders)}
        for folder, name in self.names.items():
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(folder, name)
            else:
                self.model = PeftModel.from_pretrained(self.base, folder, adapter_name=name).eval()

    @torch.inference_mode()
    def ask(self, picture: Image.Image, who: Sequence[Path | None], tokens: int) -> Answers:
        """One after another, each from the picture on: all that there is without an engine."""
        answers = []
        for folder in who:
            inputs = self.prompt.inputs(
                [(Message("user", IMAGE + self.question), Message("assistant", ""))], [[picture]]
            )
            if folder is not None:
                self.model.set_adapter(self.names[folder])
            alone = self.names and folder is None
            with adapters.base_alone(self.model) if alone else nullcontext(self.model) as model:
                generated = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            answers += self.prompt.decode(generated, inputs)
        return answers


def in_pairs(subject: Subject, ways: int) -> Iterator[Image.Image]:
    """New pictures, each as often in a row as there are ways: all are asked about the same in each turn."""
    for picture in inference_models.pictures(subject.side):
        yield from [picture] * ways


def first_question(subject: Subject, sizes: Sizes) -> list[Figure]:
    """A new picture each turn, the base alone: what the engine adds to `generate`."""
    engine, plain = Engine(), Plain(subject)
    shown = in_pairs(subject, 2)
    ways: dict[str, Way] = {
        "engine": lambda: ask(engine, subject, next(shown), [None], sizes.tokens),
        "generate": lambda: plain.ask(next(shown), [None], sizes.tokens),
    }
    found = alternate(ways, sizes.turns)
    equal = found["engine"].answers == found["generate"].answers
    what, bound = "first question, against", {"model": subject.name, "wanted": 1.05, "at_most": True}
    figures = [Figure(f"{what} generate", **bound, **ratio(found, "engine", "generate"), equal=equal)]
    if plain.processor.chat_template is None:
        return figures  # the pipeline wants a template
    piped = pipeline("image-text-to-text", model=plain.base, processor=plain.processor)
    fresh = in_pairs(subject, 2)

    def by_pipeline() -> Answers:
        content = [{"type": "image", "image": next(fresh)}, {"type": "text", "text": subject.question}]
        turns = [{"role": "user", "content": content}]
        greedy = {"do_sample": False, "max_new_tokens": sizes.tokens}
        return [piped(text=turns, generate_kwargs=greedy, return_full_text=False)[0]["generated_text"]]

    ways = {
        "engine": lambda: ask(engine, subject, next(fresh), [None], sizes.tokens),
        "pipeline": by_pipeline,
    }
    found = alternate(ways, sizes.turns)
    # Not compared: the pipeline writes its prompt by itself, with the end that this tokenizer puts behind it.
    return [*figures, Figure(f"{what} the pipeline", **bound, **ratio(found, "engine", "pipeline"))]


def second_question(subject: Subject, sizes: Sizes) -> list[Figure]:
    """To the first token: of a new picture, and of another question about it."""
    engine, plain = Engine(), Plain(subject)
    shown = in_pairs(subject, 2)
    ways: dict[str, Way] = {
        "first": lambda: ask(engine, subject, next(shown), [None], 1),
        "second": lambda: ask(engine, subject, next(shown), [None], 1, ANOTHER),
    }
    found = alternate(ways, sizes.turns)
    picture = next(inference_models.pictures(subject.side, seed=1))
    again = [ask(engine, subject, picture, [None], sizes.tokens) for _ in range(2)]
    equal = again == [plain.ask(picture, [None], sizes.tokens)] * 2
    what, bound = "second question, first token", {"model": subject.name, "wanted": 3.0, "at_most": False}
    return [Figure(what, **bound, **ratio(found, "first", "second"), equal=equal)]


def together(subject: Subject, sizes: Sizes) -> list[Figure]:
    """Base and adapters about a new picture: in one question, in one question each, and with plain PEFT."""
    engine, plain = Engine(), Plain(subject, subject.adapters)
    who = [None, *subject.adapters]
    # The engine would find in one way what it has kept of a picture in the other: these are pictures apart.
    shown, apart = in_pairs(subject, 2), inference_models.pictures(subject.side, seed=1)

    def at_once(picture: Image.Image) -> Answers:
        return ask(engine, subject, picture, who, sizes.tokens)

    def in_turn(picture: Image.Image) -> Answers:
        return [ask(engine, subject, picture, [one], sizes.tokens)[0] for one in who]

    ways: dict[str, Way] = {
        "together": lambda: at_once(next(apart)),
        "one after another": lambda: in_turn(next(shown)),
        "plain PEFT": lambda: plain.ask(next(shown), who, sizes.tokens),
    }
    found = alternate(ways, sizes.turns)
    picture = next(shown)
    equal = found["one after another"].answers == found["plain PEFT"].answers
    equal = equal and at_once(picture) == plain.ask(picture, who, sizes.tokens)
    bound = {"model": subject.name, "wanted": 2.0 if subject.is_starter else 1.2, "at_most": False}
    return [
        Figure(f"{len(who)} together, against {way}", **bound, **ratio(found, way, "together"), equal=equal)
        for way in ("one after another", "plain PEFT")
    ]


def switching(subject: Subject, sizes: Sizes) -> list[Figure]:
    """One token about a picture that is known: of another adapter than the last, and of the same again."""
    engine, turn = Engine(), cycle(subject.adapters)
    picture = next(inference_models.pictures(subject.side))
    for folder in subject.adapters:  # the first load is not what is timed
        ask(engine, subject, picture, [folder], 1)
    active = subject.adapters[-1]

    def another() -> Answers:
        nonlocal active
        active = next(turn)
        return ask(engine, subject, picture, [active], 1)

    ways: dict[str, Way] = {
        "another": another,
        "the same": lambda: ask(engine, subject, picture, [active], 1),
    }
    found = alternate(ways, 4 * sizes.turns)
    other, same = found["another"], found["the same"]
    return [
        Figure(
            "switching adapters",
            subject.name,
            value=1000 * (other.seconds - same.seconds),
            by_cpu=1000 * (other.cpu_s - same.cpu_s),
            wanted=50.0,
            at_most=True,
            seconds={name: way.seconds for name, way in found.items()},
            equal=other.answers == same.answers,
            unit="ms",
        )
    ]


def beside_merged(subject: Subject, sizes: Sizes) -> list[Figure]:
    """Tokens a second with an adapter, as a share of those of the model into which it is merged."""
    engine, of_merged = Engine(), Engine()
    folder = subject.adapters[0]
    merged = folder.parent / "merged"
    if not merged.exists():
        adapters.merge(subject.settings, folder, merged)
    alone = subject.settings.model_copy(update={"model": str(merged)})
    picture = next(inference_models.pictures(subject.side))
    given: dict[str, int] = {}

    def count(name: str, asked: Iterator[list[Answer]]) -> Answers:
        *_, (answer,) = asked
        given[name] = answer.tokens
        return [answer.text]

    ways: dict[str, Way] = {
        "adapter": lambda: count(
            "adapter", engine.ask(subject.settings, picture, subject.question, [folder], sizes.tokens)
        ),
        "merged": lambda: count(
            "merged", of_merged.ask(alone, picture, subject.question, [None], sizes.tokens)
        ),
    }
    found = alternate(ways, sizes.turns)
    # Merged weights are rounded once more, and an answer may end elsewhere: its seconds are per token.
    each = {name: replace(way, **per_token(way, given[name])) for name, way in found.items()}
    share = ratio(each, "merged", "adapter")
    equal = found["adapter"].answers == found["merged"].answers
    return [Figure("tokens/s of merged", subject.name, wanted=0.9, at_most=False, equal=equal, **share)]


def per_token(way: Timed, tokens: int) -> dict[str, float]:
    return {"seconds": way.seconds / tokens, "cpu_s": way.cpu_s / tokens}


def many_pictures(subject: Subject, sizes: Sizes) -> list[Figure]:
    """One question about many new pictures: in batches, and one by one."""
    engine, shown = Engine(), inference_models.pictures(subject.side)
    apart = inference_models.pictures(subject.side, seed=1)
    folder = subject.adapters[0]

    def batched(images: Sequence[Image.Image]) -> Answers:
        asked = [(image, subject.question) for image in images]
        size = sizes.batch
        answered = engine.ask_many(subject.settings, asked, [folder], sizes.tokens, batch_size=size)
        return [answer.text for (answer,) in answered]

    def one_by_one(images: Sequence[Image.Image]) -> Answers:
        return [ask(engine, subject, image, [folder], sizes.tokens)[0] for image in images]

    ways: dict[str, Way] = {
        "batches": lambda: batched([*islice(apart, sizes.pictures)]),
        "one by one": lambda: one_by_one([*islice(shown, sizes.pictures)]),
    }
    found = ratio(alternate(ways, sizes.turns), "one by one", "batches")
    same = [*islice(shown, sizes.pictures)]
    equal = batched(same) == one_by_one(same)
    what = f"{sizes.pictures} pictures in batches of {sizes.batch}"
    return [Figure(what, subject.name, wanted=3.0, at_most=False, equal=equal, **found)]


PARTS: dict[str, Callable[[Subject, Sizes], list[Figure]]] = {
    "first": first_question,
    "second": second_question,
    "together": together,
    "switching": switching,
    "merged": beside_merged,
    "pictures": many_pictures,
}
# Of which subject each part has a goal.
SUBJECTS = {
    "first": ("smolvlm", "starter"),
    "second": ("smolvlm",),
    "together": ("smolvlm", "starter"),
    "switching": ("smolvlm", "starter"),
    "merged": ("smolvlm", "starter"),
    "pictures": ("starter",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny SmolVLM, few pictures and short answers")
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="these parts alone")
    parser.add_argument("--turns", type=int, default=Sizes.turns, help="how often each way is timed")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--folder", type=Path, help="keep models here, and use those that are here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = Sizes(given.turns, 6, 8, 4) if given.tiny else Sizes(given.turns)
    print("| what | model | found | by CPU time | wanted | | seconds, medians |", flush=True)
    print("|---" * 7 + "|", flush=True)
    figures = []
    with placed(given.folder) as folder:
        for part in given.only:
            for name in SUBJECTS[part]:
                subject = inference_models.SUBJECTS[name](folder, tiny=given.tiny)
                for figure in PARTS[part](subject, sizes):
                    print(figure.row(), flush=True)
                    figures.append(asdict(figure) | {"reached": figure.reached})
    found = {"sizes": asdict(sizes), "threads": torch.get_num_threads(), "figures": figures}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
