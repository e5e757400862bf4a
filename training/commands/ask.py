"""The command `ask`: adapters, and the base beside them, asked about a picture, pictures or a dataset.

With `--out` every answer is in a file as soon as it is given: the same command goes on where it was killed.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training import runs
from training.commands import parser
from training.commands.adapters import base_not_named
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.config import TrainingConfig
from training.data.images import load_image
from training.data.open import open_configured
from training.data.readers.archives import is_archive, unpack
from training.data.readers.beside import PICTURES
from training.evaluation import answers, compare
from training.evaluation.asked_file import AnswersFile, Line
from training.evaluation.metrics import score, scored_by
from training.evaluation.paired import pair
from training.runs.adapters import AdapterPlace
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message
from vlm.filesystem import typed_path
from vlm.settings import GenerationSettings, ModelSettings

# In the place of an adapter's name: the base alone.
BASE = "base"
# Each adapter's own; the base sees images as large as the model does.
OF_MODEL = [name for name in ModelSettings.model_fields if not name.startswith("image_")]
PDF = ".pdf"


@dataclass(frozen=True)
class _Asking:
    """Who is asked what: folders by name, None for the base; examples without an answer know no right one."""

    base: ModelSettings
    folders: Mapping[str, Path | None]
    examples: Sequence[Example]
    max_new_tokens: int


def ask(command: CliCommand) -> int:
    """Print the answers about one picture; of more than one write a line each, then the figures.

    Raises:
        UserError: there is no such adapter or picture, they don't fit, or all pictures are bad.
    """
    values, asking = command.values, _read(command)
    names = [*asking.folders]
    path = values.get("out")
    file = AnswersFile(typed_path(path), names) if path is not None else None
    known = file.read((one.id, one.question) for one in asking.examples) if file else {}
    if file is None and len(asking.examples) > 1:
        raise UserError(
            "{count} pictures or questions need a file for their answers.",
            "Give one: --out answers.jsonl, or .csv.",
            "ask-without-file",
            count=len(asking.examples),
        )
    lines, bad = dict(known), {}
    for found in _answers(asking, known):
        if isinstance(found, tuple):
            name, error = found
            if len(asking.examples) == 1:
                raise error
            bad[name] = error
            print(f"{name}: {error.problem.rstrip('.')}. {error.remedy}", file=sys.stderr)
        else:
            lines[found["id"]] = found
            if file:
                file.add(found)
        print_progress("asked", len(lines) + len(bad), len(asking.examples))
    there = {one.id: lines[one.id] for one in asking.examples if one.id in lines}
    if file:
        file.finish([*there.values()])
    _report(command, asking, there, bad, file)
    return 0 if there else 2


def _read(command: CliCommand) -> _Asking:
    """Returns what is asked of whom; with torch only when nothing of what was typed can be wrong any more."""
    values = command.values
    typed = [name for name in values["adapters"].split(",") if name and name != BASE]
    places = [runs.require_adapter(command.workspace, name) for name in typed]
    config = _settings(command, places)
    base = ModelSettings(**{name: getattr(config, name) for name in OF_MODEL})
    folders: dict[str, Path | None] = {}
    if values.get("base") or not places:
        folders[BASE] = None
    for place in places:  # two of one name are told apart by their folders
        folders[place.name if place.name not in folders else str(place.folder)] = place.folder
    question = values.get("question")
    if question is None:
        examples = _of_dataset(config)
    else:
        examples = _of_pictures(values["about"], question, command.workspace)
    return _Asking(base, folders, examples, config.max_new_tokens or GenerationSettings().max_new_tokens)


def _settings(command: CliCommand, places: Sequence[AdapterPlace]) -> TrainingConfig:
    """Returns the settings of base and dataset: what was typed, else what the first run was trained with."""
    run = next((found for place in places if (found := place.run or runs.run_of(place.folder))), None)
    known: dict[str, Any] = {"quantization": "none", "dataset": command.values["about"]}
    if run is not None:
        trained = run.config()
        known |= {name: getattr(trained, name) for name in (*OF_MODEL, "max_new_tokens")}
    elif places and not command.values.get("model"):
        raise base_not_named(places[0].folder)
    # `question` is asked here about each picture, and no setting of how a dataset is read.
    values = {name: value for name, value in command.values.items() if name != "question"}
    return parser.run_settings(replace(command, values=values), known)


def _of_dataset(config: TrainingConfig) -> list[Example]:
    """Returns a dataset's questions; rows that can't be used are told by name and left out."""
    dataset = open_configured(config, print_progress)
    for finding in dataset.findings:
        print(finding.line, file=sys.stderr)
    if not dataset.examples:
        raise UserError(
            "{dataset} has no row that can be asked.",
            "`check {dataset:sh}` says what is wrong with it; pictures alone need a question.",
            "nothing-to-ask",
            dataset=dataset.name,
        )
    return [*dataset.examples]


def _of_pictures(about: str, question: str, workspace: Path) -> list[Example]:
    """Returns the question about a picture, or about each in a folder or zip, by their paths inside it."""
    path = typed_path(about)
    if path.is_file() and is_archive(path):
        path = unpack(path, workspace / "datasets")
    if path.is_dir():
        endings = (*PICTURES, PDF)
        inside = (each for each in sorted(path.rglob("*")) if each.suffix.lower() in endings)
        found = {each.relative_to(path).as_posix(): each for each in inside if each.is_file()}
    else:
        found = {path.name: path}  # that it is missing, or no picture, is told as it is read
    if not found:
        raise UserError(
            "There is no picture in {path}.",
            "Give a picture, or a folder or zip that holds some.",
            "no-picture-in",
            path=path,
        )
    messages = (Message("user", IMAGE + question), Message("assistant", ""))
    return [Example(name, (file.resolve(),), messages) for name, file in found.items()]


def _answers(asking: _Asking, known: Mapping[str, Line]) -> Iterator[Line | tuple[str, UserError]]:
    """Yields the lines that are not `known`; of a picture that can't be asked about its id, and why.

    Raises:
        UserError: the first question can't be answered: base and adapters are then to blame.
    """
    from vlm.inference import Engine

    engine, folders, is_answering = Engine(), [*asking.folders.values()], False
    for example in asking.examples:
        if example.id in known:
            continue
        try:
            images = [load_image(path, name=example.id) for path in example.images]
        except UserError as error:
            yield example.id, error
            continue
        try:
            turns = example.messages[:-1]
            *_, said = engine.ask(asking.base, images, turns, folders, asking.max_new_tokens)
        except UserError as error:
            if not is_answering:
                raise
            yield example.id, error
            continue
        is_answering, texts = True, dict(zip(asking.folders, said, strict=True))
        line = Line(
            id=example.id,
            question=example.question,
            answers={who: answer.text for who, answer in texts.items()},
            cut=[who for who, answer in texts.items() if answer.tokens >= asking.max_new_tokens],
        )
        yield line | ({"right": [*example.accepted]} if example.answer else {})


def _figures(asking: _Asking, lines: Mapping[str, Line]) -> tuple[dict[str, Any], list[str]]:
    """Returns metrics and verdicts where right answers are known, and in words."""
    examples = [one for one in asking.examples if one.id in lines and one.answer]
    if not examples:
        return {}, []
    facts, words, rows = {}, [], {}
    for who in asking.folders:
        said = {one.id: lines[one.id]["answers"][who] for one in examples}
        found, metric = score(examples, said), scored_by(examples)[0]
        low, high = found.intervals[metric]
        words.append(
            f"{who}: {compare.NAMES[metric]} {found.metrics[metric]:.3f} ({low:.3f} to {high:.3f}) of"
            f" {len(examples):,}"
        )
        facts[who] = {"metrics": found.metrics, "intervals": found.intervals}
        rows[who] = answers.lines_of(examples, said)
    first, *others = asking.folders
    for who in others if first == BASE else ():
        if verdict := pair(rows[BASE], rows[who], chosen_here=False, beside_base=True):
            facts[who]["verdict"] = asdict(verdict)
            words.append(f"{verdict.words(who, compare.BASE)}.")
    return {"figures": facts}, words


def _report(
    command: CliCommand,
    asking: _Asking,
    lines: Mapping[str, Line],
    bad: Mapping[str, UserError],
    file: AnswersFile | None,
) -> None:
    """Print one question's answers, or how many are in the file and how good they are."""
    facts, words = _figures(asking, lines)
    if file is None:
        (line,) = lines.values()
        text = [
            f"{who}: {said}" if len(asking.folders) > 1 else said for who, said in line["answers"].items()
        ]
        print_result(command, dict(line), "\n".join(text))
        return
    told = {name: error.problem for name, error in bad.items()}
    facts |= {"answered": len(lines), "bad": told, "out": str(file.path)}
    text = [*words, f"{len(lines):,} answered, {len(bad):,} left out: every answer is in {file.path}"]
    print_result(command, facts, "\n".join(text))
