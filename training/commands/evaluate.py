"""The command `evaluate`: base and adapter answer a dataset, side by side, and every answer is written down.

A run's adapter is not evaluated on what it was trained on, unless `--part all` asks for it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes Python's own from 3.12 on

from training import runs
from training.commands import parser
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.config import TrainingConfig
from training.data.dataset import usable_examples
from training.data.splits import spread
from training.data.validate.dataset_check import check_configured
from training.data.validate.token_lengths import answer_length
from training.evaluation import answers, compare
from training.evaluation.learned import commonest
from training.evaluation.metrics import LabelMetric, score_answer, scored_by, tell_fields
from training.evaluation.paired import pair
from vlm.errors import Phrase, UserError
from vlm.example import Example
from vlm.filesystem import typed_path, write_atomic
from vlm.settings import ModelSettings, image_size_of

if TYPE_CHECKING:
    from training.evaluation.blindfold import Blindfold
    from training.evaluation.evaluate import Evaluation

# In the place of an adapter's name: the base alone.
BASE = "base"
FOLDER = "evaluations"
PARTS = ("auto", "held_out", "all")
# Examples whose fields are printed; the file has those of all.
FIELDS_OF = 3
CUT = "\n{count:,} answers of the {who} were cut: a higher --max_new_tokens shows more of them"
# What a run may leave to `auto`. How many are asked at once is not the run's: nothing trains here.
PLAIN = {"quantization": "none", "batch_size": 32}
# Settings of an adapter's run that hold here too. Those of the data only where it is the same dataset, so
# that the held-out examples are those of the run.
OF_MODEL = (*ModelSettings.model_fields, "max_length", "max_new_tokens")
OF_DATA = (
    *("columns", "dataset_split", "held_out_split", "question", "image_root"),
    *("held_out", "seed", "skip_bad_rows", "dataset"),
)


class Earlier(TypedDict):
    """What is read of a line that `evaluate` wrote: `scores` of base, adapter and blindfold, by metric."""

    id: str
    question: str
    answer: str
    scores: dict[str, dict[str, float]]


EARLIER = TypeAdapter(Earlier)


def evaluate(command: CliCommand) -> int:
    """Print base and adapter side by side, and write every answer into a file.

    Raises:
        UserError: no such adapter or dataset, they don't fit the model, or no example is left.
    """
    values, workspace, known, folder, run = command.values, command.workspace, {}, None, None
    if values["adapter"] != BASE:
        place = runs.require_adapter(workspace, values["adapter"])
        folder, run = place.folder, place.run or runs.run_of(place.folder)
        known = image_size_of(folder)
    if run is not None:
        trained = run.config()
        # A run has its dataset's absolute path; here the same one may be named from another folder.
        one, other = (
            {typed_path(name).resolve(), (workspace / "datasets" / name).resolve()}
            for name in (trained.dataset, values["dataset"])
        )
        same = trained.dataset == values["dataset"] or not one.isdisjoint(other)
        known |= {field: getattr(trained, field) for field in (*OF_MODEL, *(OF_DATA if same else ()))}
    config = parser.run_settings(command, PLAIN | known)
    most, part, earlier = _options(values)

    # With torch from here on, when nothing of what was typed can be wrong any more.
    from training.data.validate.model_check import check_with_model
    from training.data.validate.token_counter import token_counter
    from vlm import adapters as weights
    from vlm.meta_model import architecture

    if folder is not None:  # read from headers, before a weight of the base is loaded
        weights.check_fit(folder, architecture(config.model, config.revision), config.model)
    checked = check_configured(config, print_progress)
    report = check_with_model(checked, token_counter(config), print_progress)
    dataset = report.cleaned()
    examples = usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    train, held_out = report.sides(config.held_out, config.seed)
    if part == "auto":  # what an adapter was trained on says nothing of what it has learned
        part = "held_out" if "dataset" in known or dataset.held_out else "all"
    if part == "held_out":
        examples = held_out
    if not examples:
        raise UserError(
            "{dataset} holds no examples out.",
            "Use --part all, or give a --held_out.",
            "nothing-held-out",
            dataset=dataset.name,
        )
    examples = spread(examples, most or len(examples))
    tokens = config.max_new_tokens or answer_length(report.lengths.longest_answer)
    asked = _ask(config, folder, examples, tokens, bool(values.get("blindfold")))
    # The run may have chosen its adapter by these very rows.
    chosen = part == "held_out" and "dataset" in known and answers.evaluated_of(run)[1] is not None
    verdicts = _verdicts(values["adapter"], train or examples, examples, *asked[:2], chosen, earlier)
    _report(command, folder, dataset.name, part, examples, *asked, *verdicts)
    return 0


def _options(values: Mapping[str, Any]) -> tuple[int | None, str, dict[str, Earlier] | None]:
    """Returns how many examples are asked at most, of which part, and the lines of an earlier file by id.

    Raises:
        UserError: one of them can't be used.
    """
    most, part, against = values.get("most"), values.get("part") or "auto", values.get("against")
    if most is not None and (not str(most).isdecimal() or int(most) < 1):
        raise UserError(
            "--most: {most!r} can't be used.", "Give a whole number from 1.", "most-not-a-number", most=most
        )
    if part not in PARTS:
        raise UserError(
            "--part: {part!r} can't be used.", "Give one of {parts}.", "unknown-part", part=part, parts=PARTS
        )
    try:
        lines = [] if against is None else typed_path(against).read_text("utf-8").split("\n")
        read = [EARLIER.validate_json(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise UserError(
            "--against: {path} is no file of answers.",
            "Give one that `evaluate` has written.",
            "answers-not-read",
            path=against,
        ) from error
    earlier = None if against is None else {line["id"]: line for line in read}
    return int(most) if most else None, part, earlier


def _ask(
    config: TrainingConfig, folder: Path | None, examples: Sequence[Example], tokens: int, blindfold: bool
) -> tuple["Evaluation", "Evaluation | None", "Blindfold | None", Mapping[str, str]]:
    """Returns the base's evaluation, the adapter's, and the blindfold test of the last with its answers."""
    from training.batching.collator import Collator
    from training.evaluation.evaluate import evaluate as evaluate_model
    from training.evaluation.evaluate import evaluate_blindfold
    from vlm import adapters as weights
    from vlm.models.loading import load_base
    from vlm.oom import with_less
    from vlm.prompting import prompt_style

    loaded = load_base(config)
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, config.max_length))
    # Twice as many as in training, since nothing is stored for a backward pass; halved where memory runs out.
    at_once, model, evaluations = 2 * config.batch_size, loaded.model, []
    for who in ("base",) if folder is None else ("base", "adapter"):
        if who == "adapter":
            # Onto the base's own weights, as a second copy would double the memory: so the base goes first.
            model = weights.load(model, folder)
        ask = partial(evaluate_model, model, collator, examples, tokens, partial(print_progress, who))
        evaluations.append(with_less(at_once, lambda size, ask=ask: ask(batch_size=size)))
    base, adapter = evaluations[0], evaluations[1] if folder is not None else None
    if not blindfold:
        return base, adapter, None, {}
    own, seed, progress = evaluations[-1].predictions, config.seed, partial(print_progress, "blindfolded")
    ask = partial(evaluate_blindfold, model, collator, examples, own, seed, tokens, progress)
    return base, adapter, *with_less(at_once, lambda size: ask(batch_size=size))


def _line(
    example: Example,
    answers: Mapping[str, Mapping[str, str] | None],
    cut: Mapping[str, Collection[str]],
    by_labels: LabelMetric,
) -> str:
    """Returns a line of JSON: an example, what each model said of it, and who was cut off."""

    line = {field: getattr(example, field) for field in ("id", "group", "question", "answer")}
    if example.references:
        line["answers"] = [*example.references]
    texts = {who: by_id[example.id] for who, by_id in answers.items() if by_id and example.id in by_id}
    scores = {who: score_answer(text, example.accepted, by_labels) for who, text in texts.items()}
    line["cut"] = [who for who, ids in cut.items() if example.id in ids]
    if by_labels.labels == "objects":
        line["wrong_fields"] = {who: tell_fields(text, example.accepted) for who, text in texts.items()}
    return json.dumps(line | texts | {"scores": scores}, ensure_ascii=False) + "\n"


def _wrong_fields(examples: Sequence[Example], answers: Mapping[str, Mapping[str, str] | None]) -> list[str]:
    """Returns lines that tell of some examples which of their fields are wrong; the file has all."""
    lines = []
    for example in spread(examples, FIELDS_OF):
        for who in ("base", "adapter"):
            if said := answers[who]:
                wrong = "; ".join(tell_fields(said[example.id], example.accepted)) or "every field is right"
                lines.append(f"{example.id}, {who}: {wrong}")
    return ["", *lines]


def _verdicts(
    name: str,
    train: Sequence[Example],
    examples: Sequence[Example],
    base: "Evaluation",
    adapter: "Evaluation | None",
    chosen: bool,
    earlier: Mapping[str, Earlier] | None,
) -> tuple[dict[str, Any], list[str]]:
    """Returns the verdicts on the newest answers beside the base's and beside `earlier` ones, and in words.

    Raises:
        UserError: `earlier` has none of these examples.
    """
    metric, scored = scored_by(examples)
    common, rate = commonest(train, scored, metric)
    asked = [it.predictions for it in (base, adapter) if it]
    before, *after = (answers.lines_of(examples, said, common=common) for said in asked)
    facts = {"commonest": {"answer": common, "metric": metric, "score": rate}}
    found, notes = {}, [compare.commonest_note(facts)]
    if after:
        found["verdict"] = pair(before, after[0], chosen_here=chosen, beside_base=True)
        notes.insert(0, f"{found['verdict'].words(compare.ADAPTER, compare.BASE)}.")
    if earlier is not None:
        then = {}
        for example in examples:
            line = earlier.get(example.id)
            if line and (line["question"], line["answer"]) == (example.question, example.answer):
                scores = line["scores"].get("adapter") or line["scores"].get("base") or {}
                then[example.id] = {"metric": metric, "score": scores[metric]} if metric in scores else {}
        found["against"] = pair(then, (after or [before])[0], chosen_here=chosen)
        if found["against"] is None:
            raise UserError(
                "--against has no answers to these examples.",
                "Give a file of the same dataset and part.",
                "no-answers-in-common",
            )
        before_it = Phrase("the earlier answers", "earlier-answers")
        notes.append(f"{found['against'].words(name, before_it)}.")
    return facts | {who: asdict(it) for who, it in found.items()}, [*map(str, notes)]


def _report(
    command: CliCommand,
    folder: Path | None,
    dataset: str,
    part: str,
    examples: Sequence[Example],
    base: "Evaluation",
    adapter: "Evaluation | None",
    blindfold: "Blindfold | None",
    blind_answers: Mapping[str, str],
    verdicts: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Write an object of JSON for each example, in their order, then print the figures.

    Raises:
        UserError: the file can't be written.
    """
    name = None if folder is None else folder.parent.name if folder.name == "adapter" else folder.name
    plain = dataset.replace("/", "-").replace(":", "-")  # a Hub id with a split has both
    default = command.workspace / FOLDER / f"{name or BASE}-on-{plain}.jsonl"
    output = default if command.values.get("output") is None else typed_path(command.values["output"])
    # The blindfold test leaves out examples for which there is no other image.
    texts = {"base": base.predictions, "adapter": adapter and adapter.predictions}
    texts["blindfold"] = blind_answers
    cut = {who: it.cut for who, it in (("base", base), ("adapter", adapter)) if it}
    lines = "".join(_line(example, texts, cut, base.scores.by_labels) for example in examples)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Half of a surrogate pair, for which UTF-8 has no bytes, must not cost the other answers.
        write_atomic(output, lines.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(
            "{path} can't be written: {reason}.",
            "Choose another file with --output.",
            "answers-not-written",
            path=output,
            reason=error.strerror,
        ) from error
    # As `evaluated` events have them, so that `compare` takes either.
    before, after = (
        it and {"loss": it.loss, "examples": len(examples), "cut": len(it.cut)} | asdict(it.scores)
        for it in (base, adapter)
    )
    facts = {"adapter_name": name, "dataset": dataset, "part": part, "examples": len(examples)}
    facts |= {"output": str(output), "base": before, "adapter": after}
    facts |= {"blindfold": blindfold and asdict(blindfold), **verdicts}
    side = "held-out examples" if part == "held_out" else "examples"
    table = compare.markdown_table(compare.comparisons(before, after), "base", after and "adapter")
    text = [f"{len(examples):,} {side} of {dataset}", "", table, "", *compare.notes(before), *notes]
    if before["fields"]:
        text += _wrong_fields(examples, texts)
    text += [CUT.format(count=len(ids), who=who) for who, ids in cut.items() if ids]
    if blindfold is not None:
        text += ["", str(blindfold), *([str(blindfold.warning)] if blindfold.warning else [])]
    print_result(command, facts, "\n".join([*text, "", f"Every answer is in {output}"]))
