"""The command `evaluate`: base and adapter answer a dataset, side by side, and every answer is written down.

A run's adapter is not evaluated on what it was trained on, unless `--part all` asks for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training import runs
from training.commands import parser
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.config import TrainingConfig
from training.data.dataset import usable_examples
from training.data.validate.dataset_check import check_configured
from training.evaluation import compare
from vlm.errors import UserError
from vlm.example import Example
from vlm.filesystem import write_atomic
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    from training.evaluation.blindfold import Blindfold
    from training.evaluation.evaluate import Evaluation

# In the place of an adapter's name: the base alone.
BASE = "base"
FOLDER = "evaluations"
PARTS = ("auto", "held_out", "all")
# Settings of an adapter's run that hold here too. Those of the data only where it is the same dataset, so
# that the held-out examples are those of the run.
OF_MODEL = (*ModelSettings.model_fields, "max_length", "max_new_tokens")
OF_DATA = ("columns", "dataset_split", "held_out_split", "held_out", "seed", "skip_bad_rows", "dataset")


def evaluate(command: CliCommand) -> int:
    """Print base and adapter side by side, and write every answer into a file.

    Raises:
        UserError: no such adapter or dataset, they don't fit the model, or no example is left.
    """
    values, workspace, known = command.values, command.workspace, {}
    folder, run = None, None
    if values["adapter"] != BASE:
        place = runs.require_adapter(workspace, values["adapter"])
        folder, run = place.folder, place.run or runs.run_of(place.folder)
    if run is not None:
        trained = run.config()
        # A run has its dataset's absolute path; here the same one may be named from another folder.
        one, other = (
            {Path(name).expanduser().resolve(), (workspace / "datasets" / name).resolve()}
            for name in (trained.dataset, values["dataset"])
        )
        same = trained.dataset == values["dataset"] or not one.isdisjoint(other)
        known = {field: getattr(trained, field) for field in (*OF_MODEL, *(OF_DATA if same else ()))}
    config = parser.run_settings(command, known)
    most, part = values.get("most"), values.get("part") or "auto"
    if most is not None and (not str(most).isdecimal() or int(most) < 1):
        raise UserError(
            "--most: {most!r} can't be used.", "Give a whole number from 1.", "most-not-a-number", most=most
        )
    if part not in PARTS:
        raise UserError(
            "--part: {part!r} can't be used.", "Give one of {parts}.", "unknown-part", part=part, parts=PARTS
        )

    # With torch from here on, when nothing of what was typed can be wrong any more.
    from training.data.splits import spread
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
    if part == "auto":  # what an adapter was trained on says nothing of what it has learned
        part = "held_out" if "dataset" in known or dataset.held_out else "all"
    if part == "held_out":
        _, examples = report.sides(config.held_out, config.seed)
    if not examples:
        raise UserError(
            "{dataset} holds no examples out.",
            "Use --part all, or give a --held_out.",
            "nothing-held-out",
            dataset=dataset.name,
        )
    examples = spread(examples, int(most or len(examples)))
    answers = _ask(config, folder, examples, bool(values.get("blindfold")))
    _report(command, folder, dataset.name, part, examples, *answers)
    return 0


def _ask(
    config: TrainingConfig, folder: Path | None, examples: Sequence[Example], blindfold: bool
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
    at_once, tokens = 2 * config.batch_size, config.max_new_tokens
    model, evaluations = loaded.model, []
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
) -> None:
    """Write an object of JSON for each example, in their order, then print the figures.

    Raises:
        UserError: the file can't be written.
    """
    from training.evaluation.metrics import score_answer

    name = None if folder is None else folder.parent.name if folder.name == "adapter" else folder.name
    plain = dataset.replace("/", "-").replace(":", "-")  # a Hub id with a split has both
    default = command.workspace / FOLDER / f"{name or BASE}-on-{plain}.jsonl"
    output = default if command.values.get("output") is None else Path(command.values["output"]).expanduser()
    # The blindfold test leaves out examples for which there is no other image.
    answers = {"base": base.predictions, "adapter": adapter and adapter.predictions}
    answers["blindfold"] = blind_answers
    lines = []
    for example in examples:
        line = {field: getattr(example, field) for field in ("id", "group", "question", "answer")}
        if example.references:
            line["answers"] = [*example.references]
        texts = {who: by_id[example.id] for who, by_id in answers.items() if by_id and example.id in by_id}
        scores = {who: score_answer(text, example.accepted) for who, text in texts.items()}
        lines.append(json.dumps(line | texts | {"scores": scores}, ensure_ascii=False) + "\n")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Half of a surrogate pair, for which UTF-8 has no bytes, must not cost the other answers.
        write_atomic(output, "".join(lines).encode(errors="backslashreplace"))
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
        it and {"loss": it.loss, "examples": len(examples)} | asdict(it.scores) for it in (base, adapter)
    )
    facts = {"adapter_name": name, "dataset": dataset, "part": part, "examples": len(examples)}
    facts |= {"output": str(output), "base": before, "adapter": after}
    facts |= {"blindfold": blindfold and asdict(blindfold)}
    side = "held-out examples" if part == "held_out" else "examples"
    table = compare.markdown_table(compare.comparisons(before, after), "base", after and "adapter")
    text = [f"{len(examples):,} {side} of {dataset}", "", table]
    if several := compare.references_note(before):
        text += ["", several]
    if blindfold is not None:
        text += ["", str(blindfold), *([str(blindfold.warning)] if blindfold.warning else [])]
    print_result(command, facts, "\n".join([*text, "", f"Every answer is in {output}"]))
