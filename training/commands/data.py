"""The commands on datasets: check one, tell what memory a run on it takes, export it. No torch."""

from dataclasses import asdict

from training.commands import parser
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.config import TrainingConfig, as_flags
from training.data.dataset import usable_examples
from training.data.edit.export import FORMATS, export_dataset
from training.data.open import open_configured
from training.data.validate.dataset_check import Report, check_configured
from training.data.validate.report import describe_report, report_facts
from training.evaluation.learned import learned
from training.memory import auto, estimate
from training.memory.auto import Chosen
from training.memory.estimate import Examples
from vlm.errors import UserError
from vlm.filesystem import typed_path

# Parts of an estimate that are told for themselves, in their order.
PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "overhead")
FITS = {"fits": "it fits", "tight": "that is tight", "wont_fit": "it does not fit"}


def check(command: CliCommand) -> int:
    """Print every issue of a dataset. Returns 2 where a run would be refused.

    Raises:
        UserError: the dataset can't be opened, or the model's processor can't be loaded.
    """
    config = parser.run_settings(command)
    notes, facts = "", {}
    if command.values.get("model"):
        report, chosen, _ = _with_model(config)
        values = {name: getattr(chosen.config, name) for name in chosen.config.auto}
        notes, facts = "\n".join(["", *chosen.notes]), {"auto": values}
    else:
        report = check_configured(config, print_progress)
    text = describe_report(report, every=bool(command.values.get("all"))) + notes
    skipped = config.skip_bad_rows and bool(report.cleaned().examples)
    told = learned(report, config.held_out, config.seed) if skipped or not report.refuses else None
    text += f"\nWhat will be learned: {told}." if told else ""
    print_result(command, report_facts(report) | facts | {"learned": told}, text)
    return 2 if report.refuses and not skipped else 0


def _with_model(config: TrainingConfig) -> tuple[Report, Chosen, Examples]:
    """Returns the check with a model, what a run of both would choose, and the longest examples."""
    # transformers, and torch with it, for this alone.
    from training.data.validate.model_check import check_with_model
    from training.data.validate.token_counter import token_counter
    from vlm.models.loading import check_base

    read = check_configured(config, print_progress)
    check_base(config.model_copy(update={"quantization": config.quantization or "none"}))
    counter = token_counter(config)
    report = check_with_model(read, counter, print_progress)
    train, held_out = report.sides(config.held_out, config.seed)
    longest = Examples.longest(report.cleaned().examples, report.facts, report.lengths)
    asked = min(len(held_out), config.eval_examples)
    return report, auto.choose_for_data(config, counter.kind, len(train), longest, asked), longest


def memory(command: CliCommand) -> int:
    """Print what a run of these settings takes, by what, and the setting that would help where it is much.

    Returns 2 where it does not fit.

    Raises:
        UserError: as `check`, or there is no such device.
    """
    report, chosen, longest = _with_model(parser.run_settings(command))
    usable_examples(report.cleaned(), skip_bad_rows=True)
    config = chosen.config
    needed = chosen.needed or estimate.estimate(config, longest)
    there = estimate.device_memory(needed.device)
    fit, remedy = estimate.fit(needed, there), estimate.best_remedy(config, there, longest)
    width, height = longest.image_size
    split = f"{config.batch_size} x {config.gradient_accumulation_steps}"
    in_all = f"{needed.total / 2**30:8.2f} GiB of {there / 2**30:.2f} ({needed.device}): {FITS[fit]}"
    lines = [
        f"{config.model} on {config.dataset}: {config.method}, batch {split}, base in "
        + (config.quantization if config.quantization != "none" else "full"),
        f"longest example: {longest.tokens:,} tokens, {longest.images} images of up to {width} x {height}"
        f" pixels, answers of up to {longest.answer_tokens} tokens",
        *(f"{part:12} {getattr(needed, part) / 2**30:8.2f} GiB" for part in PARTS),
        f"{'in all':12} {in_all}",
    ]
    lines += [f"  of the weights {needed.mapped / 2**30:.2f} GiB stay in their file"] if needed.mapped else []
    facts = {"parts": asdict(needed), "total": needed.total, "there": there, "fit": fit, "remedy": None}
    if remedy:
        facts["remedy"] = {"setting": remedy.setting, "value": remedy.value, "total": remedy.estimate.total}
        words = as_flags({remedy.setting: remedy.value})
        lines.append(f"what would help: {words}, {remedy.estimate.total / 2**30:.2f} GiB then")
    facts |= {"longest": asdict(longest), "auto": {name: getattr(config, name) for name in config.auto}}
    print_result(command, facts, "\n".join([*lines, *chosen.notes]))
    return 2 if fit == "wont_fit" else 0


def export(command: CliCommand) -> int:
    """Write a dataset into a new folder.

    Raises:
        UserError: no such format or dataset, bad rows, or a folder that can't be written.
    """
    config, out = parser.run_settings(command), typed_path(command.values["out"])
    format = command.values.get("format") or FORMATS[0]
    # pydantic-settings only splits the words: no value of a flag is validated by the parser.
    if format not in FORMATS:
        raise UserError(
            "--format: {format!r} can't be used.",
            "Give one of {formats}.",
            "unknown-format",
            format=format,
            formats=FORMATS,
        )
    dataset = open_configured(config, print_progress)
    export_dataset(dataset, out, format, skip_bad_rows=config.skip_bad_rows, progress=print_progress)
    print(f"{dataset.name}: {len(dataset.examples):,} examples as {format} in {out}")
    return 0
