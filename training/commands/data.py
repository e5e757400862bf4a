"""The commands on datasets: check one before training, export one for other tools. No torch."""

from pathlib import Path

from training.commands import parser
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.data.edit.export import FORMATS, export_dataset
from training.data.open import open_configured
from training.data.validate.dataset_check import check_configured
from training.data.validate.report import describe_report, report_facts
from vlm.errors import UserError


def check(command: CliCommand) -> int:
    """Print every issue of a dataset. Returns 2 where a run would be refused.

    Raises:
        UserError: the dataset can't be opened, or the model's processor can't be loaded.
    """
    config = parser.run_settings(command)
    report = check_configured(config, print_progress)
    if command.values.get("model"):
        # transformers, and torch with it, for this alone.
        from training.data.validate.model_check import check_with_model
        from training.data.validate.token_counter import token_counter
        from vlm.models.loading import check_base

        check_base(config)
        report = check_with_model(report, token_counter(config), print_progress)
    text = describe_report(report, every=bool(command.values.get("all")))
    print_result(command, report_facts(report), text)
    skipped = config.skip_bad_rows and bool(report.cleaned().examples)
    return 2 if report.refuses and not skipped else 0


def export(command: CliCommand) -> int:
    """Write a dataset into a new folder.

    Raises:
        UserError: no such format or dataset, bad rows, or a folder that can't be written.
    """
    config, out = parser.run_settings(command), Path(command.values["out"]).expanduser()
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
