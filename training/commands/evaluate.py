"""The command `evaluate`: base and adapter asked about a dataset, side by side, every answer written down.

Called by training.__main__. A run's adapter is not asked about what it was trained on, unless that is wanted.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from training import runs
from training.config import TrainingConfig
from training.data.open import Dataset, usable_examples
from training.data.validate.dataset_check import check_configured
from training.evaluation import compare
from training.evaluation.metrics import of_answer
from vlm.errors import UserError
from vlm.example import Example
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    from training.evaluation.blindfold import Blindfold
    from training.evaluation.evaluate import Evaluation

BASE = "base"
FOLDER = "evaluations"
Part = Literal["auto", "held_out", "all"]
PARTS: tuple[str, ...] = get_args(Part)
OF_MODEL = (*ModelSettings.model_fields, "max_length", "max_new_tokens")
OF_DATA = ("columns", "dataset_split", "held_out_split", "held_out", "seed", "skip_bad_rows")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Found:
    """What was asked and answered. `base` and `adapter` are as `evaluated` events have them."""

    adapter_name: str | None
    dataset: str
    part: str
    examples: int
    output: Path
    base: dict[str, Any]
    adapter: dict[str, Any] | None
    blindfold: "Blindfold | None"

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"output": str(self.output)}


def known_settings(workspace: Path, words: str, dataset: str) -> tuple[Path | None, dict[str, Any]]:
    """The folder of the adapter, None for the base, and what its run's settings say of model and dataset.

    Raises `UserError` where there is no such adapter.
    """
    if words == BASE:
        return None, {}
    place = runs.require_adapter(workspace, words)
    folder, run = place.folder, place.run or runs.run_of(place.folder)
    if run is None:
        return folder, {}
    config = run.config()
    same = _same_dataset(config.dataset, dataset, workspace)
    wanted = (*OF_MODEL, *OF_DATA, "dataset") if same else OF_MODEL
    return folder, {field: getattr(config, field) for field in wanted}


def _same_dataset(one: str, other: str, workspace: Path) -> bool:
    places = [
        {Path(name).expanduser().resolve(), (workspace / "datasets" / name).resolve()}
        for name in (one, other)
    ]
    return one == other or not places[0].isdisjoint(places[1])


def evaluated(
    config: TrainingConfig,
    folder: Path | None,
    *,
    part: str,
    trained_on_it: bool,
    most: int | None,
    blindfold: bool,
    output: Path | None,
    progress: Progress,
) -> Found:
    """Ask the base, and the adapter in `folder` if one is given, about the dataset of `config`.

    `trained_on_it`: the adapter's run had this dataset. Raises `UserError` where model, adapter or dataset
    can't be used, and where nothing is left to ask.
    """
    if part not in PARTS:
        raise UserError(f"--part: {part!r} can't be used.", f"Give one of {', '.join(PARTS)}.")
    if folder is not None:
        from vlm import adapters as weights
        from vlm.meta_model import architecture

        base = architecture(config.model, config.revision)
        weights.check(folder, base, config.model)  # before a weight of the base is read
    name = None if folder is None else folder.parent.name if folder.name == "adapter" else folder.name
    dataset, examples, side = _examples(config, part, trained_on_it, most, progress)
    base, adapter, blind, said = _asked(config, folder, examples, blindfold, progress)
    place = output or _default_output(config.workspace, name, dataset.name)
    _write(place, _lines(examples, base, adapter, said))
    return Found(
        name,
        dataset.name,
        side,
        len(examples),
        place,
        _as_event(base, len(examples)),
        None if adapter is None else _as_event(adapter, len(examples)),
        blind,
    )


def describe(found: Found) -> str:
    """The table, and where the answers are."""
    which = {"held_out": "held-out examples", "all": "examples"}[found.part]
    lines = [f"{found.examples:,} {which} of {found.dataset}", ""]
    name = None if found.adapter is None else "adapter"
    lines.append(compare.table(compare.rows(found.base, found.adapter), "base", name))
    if told := compare.several(found.base):
        lines += ["", told]
    if found.blindfold is not None:
        lines += ["", str(found.blindfold), *(found.blindfold.warning or ())]
    return "\n".join([*lines, "", f"Every answer is in {found.output}"])


def _examples(
    config: TrainingConfig, part: str, trained_on_it: bool, most: int | None, progress: Progress
) -> tuple[Dataset, list[Example], str]:
    from training.data.validate.model_check import check_with_model
    from training.evaluation.evaluator import spread

    report = check_with_model(check_configured(config, progress), config, progress)
    dataset = report.cleaned()
    examples = usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    side = ("held_out" if trained_on_it or dataset.held_out else "all") if part == "auto" else part
    if side == "held_out":
        _, examples = report.sides(config.held_out, config.seed)
    if not examples:
        raise UserError(f"{dataset.name} holds no examples out.", "Use --part all, or give a --held_out.")
    return dataset, spread(examples, most or len(examples)), side


def _asked(
    config: TrainingConfig,
    folder: Path | None,
    examples: Sequence[Example],
    blindfold: bool,
    progress: Progress,
) -> tuple["Evaluation", "Evaluation | None", "Blindfold | None", dict[str, str]]:
    """The base's answers, then the adapter's, which goes on it after that; and blindfolded the last one's."""
    from training.batching.collator import Collator
    from training.evaluation.evaluate import ask_blindfolded, evaluate
    from vlm import adapters as weights
    from vlm.models.loading import load_base
    from vlm.oom import with_less
    from vlm.prompting import prompt_style

    loaded = load_base(config)
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, config.max_length))
    at_once, tokens = 2 * config.batch_size, config.max_new_tokens

    def counted(what: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(what, done, total)

    def answers(what: str) -> "Evaluation":
        told = counted(what)
        return with_less(at_once, lambda n: evaluate(model, collator, examples, tokens, told, batch_size=n))

    model, last = loaded.model, None
    base = answers("base")
    if folder is not None:
        model = weights.load(loaded.model, folder)
        last = answers("adapter")
    if not blindfold:
        return base, last, None, {}
    own = (last or base).predictions
    told = counted("blindfolded")
    found, said = with_less(
        at_once,
        lambda n: ask_blindfolded(model, collator, examples, own, config.seed, tokens, told, batch_size=n),
    )
    return base, last, found, said


def _as_event(evaluation: "Evaluation", examples: int) -> dict[str, Any]:
    return {"loss": evaluation.loss, "examples": examples} | asdict(evaluation.scores)


def _lines(
    examples: Sequence[Example],
    base: "Evaluation",
    adapter: "Evaluation | None",
    blindfolded: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One object for each example, in their order."""
    lines = []
    for example in examples:
        line: dict[str, Any] = {
            "id": example.id,
            "group": example.group,
            "question": example.question,
            "answer": example.answer,
        } | ({"answers": [*example.references]} if example.references else {})
        asked = {
            "base": base.predictions,
            "adapter": adapter and adapter.predictions,
            "blindfold": blindfolded,
        }
        said = {
            who: answers[example.id] for who, answers in asked.items() if answers and example.id in answers
        }
        scores = {who: of_answer(answer, example.accepted) for who, answer in said.items()}
        lines.append(line | said | {"scores": scores})
    return lines


def _default_output(workspace: Path, name: str | None, dataset: str) -> Path:
    plain = dataset.replace("/", "-").replace(":", "-")
    return workspace / FOLDER / f"{name or BASE}-on-{plain}.jsonl"


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """The file appears whole; the one of an earlier evaluation makes way. `UserError` where it can't."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        problem = f"{path} can't be written: {error.strerror}."
        raise UserError(problem, "Choose another file with --output.") from error
