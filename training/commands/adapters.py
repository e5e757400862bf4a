"""The commands on adapters: list them, inspect one and check it against a base, merge one into its base.

Reading an adapter's files imports vlm.adapters, and torch with it; nothing here does before that.
"""

import importlib
import logging
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from training import runs
from training.commands import parser
from training.commands.output import print_result
from training.commands.parser import CliCommand
from training.evaluation import answers, compare
from training.runs import Run
from vlm.errors import UserError
from vlm.filesystem import typed_path
from vlm.settings import ModelSettings, image_size_of

if TYPE_CHECKING:
    from vlm.adapters import AdapterInfo


def list_adapters(command: CliCommand) -> int:
    """Print every adapter: of the workspace's runs, newest first, then those in its `adapters` folder."""
    listed = []
    for place in runs.list_adapters(command.workspace):
        try:
            listed.append(
                adapter_facts(_vlm_adapters().read_info(place.folder), place.name, place.folder, place.run)
            )
        except UserError as error:  # one damaged adapter hides no other
            wrong = {"problem": error.problem, "remedy": error.remedy}
            listed.append({"name": place.name, "path": str(place.folder)} | wrong)
    text = "\n".join(map(describe_adapter, listed)) or "There is no adapter yet: a finished run has one."
    print_result(command, listed, text)
    return 0


def inspect(command: CliCommand) -> int:
    """Print what an adapter is, and how it matches a base: the `--model`, or the one of its run.

    With `--load` both are loaded, and asked what the run asked at its end.

    Raises:
        UserError: no such adapter, or it can't be read, does not fit, or answers otherwise than then.
    """
    from vlm.meta_model import architecture

    place = runs.require_adapter(command.workspace, command.values["adapter"])
    folder, run = place.folder, place.run
    model, revision = command.values.get("model"), command.values.get("revision")
    info = _vlm_adapters().read_info(folder)
    facts = adapter_facts(info, run.name if run else info.name, folder, run)
    if model is None and run is not None:
        model, revision = run.config().model, run.config().revision
    if model is not None:
        # Against the architecture alone: no weight of the base is read or downloaded.
        found = _vlm_adapters().check_fit(folder, architecture(model, revision), model)
        facts |= {"ranks": found.info.ranks, "base_model": model}  # a base tells text layers from vision ones
        facts |= {"matched": found.matched, "total": found.total, "notes": list(found.notes)}
    if command.values.get("load"):
        facts |= _loaded(folder, run, model, revision)
    print_result(command, facts, describe_adapter(facts))
    return 0


def _loaded(folder: Path, run: Run | None, model: str | None, revision: str | None) -> dict[str, Any]:
    if model is None:
        raise base_not_named(folder)
    known = run.config().model_dump(include={*ModelSettings.model_fields}, exclude_none=True) if run else {}
    known |= image_size_of(folder)
    settings = ModelSettings(**known | {"model": model, "revision": revision})
    # What was answered with another base says nothing.
    is_its_own = run is not None and (model, revision) == (run.config().model, run.config().revision)
    kept = run.probe_path if is_its_own else None
    found, off = _vlm_adapters().answer_anew(settings, folder, kept)
    return {"loaded": str(found), "off": off}


def base_not_named(folder: Path, flag: str = "model") -> UserError:
    """Returns the error for an adapter of no run, whose base is to be given by this flag."""
    info = _vlm_adapters().read_info(folder)
    return UserError(
        "{name} is no run's adapter, and no base model was named.",
        "Name it: --{flag} {base}",
        "base-not-named",
        name=info.name,
        flag=flag,
        base=info.base_name or "org/name",
    )


def merge(command: CliCommand) -> int:
    """Merge an adapter into its base: the `--model`, or the one of its run.

    Raises:
        UserError: no such adapter, no base is named, or as `vlm.adapters.merge` does.
    """
    # To validate alone: the defaults of a run would hide what the adapter's own run had.
    parser.run_settings(command)
    values, name, out = command.values, command.values["adapter"], typed_path(command.values["out"])
    settings = {key: values[key] for key in ModelSettings.model_fields if values.get(key) is not None}
    place = runs.require_adapter(command.workspace, name)
    if "model" not in settings and place.run is not None:
        config = place.run.config()
        # Not its quantization: weights of 4 or 8 bits can't take an adapter in.
        settings = {"model": config.model, "revision": config.revision, "device": config.device} | settings
    if "model" not in settings:
        raise base_not_named(place.folder)
    settings |= image_size_of(place.folder)
    _vlm_adapters().merge(ModelSettings(**settings), place.folder, out)
    print(f"{name} and its base are one model in {out}")
    return 0


def adapter_facts(info: "AdapterInfo", name: str, folder: Path, run: Run | None) -> dict[str, Any]:
    """Returns an adapter as JSON has it; of a run's adapter with the metrics of its evaluation."""
    facts = asdict(info) | {"name": name, "path": str(folder), "label": info.label}
    before, after = compare.base_and_kept(*answers.evaluated_of(run)) if run else (None, None)
    evaluated = after or before
    return facts if evaluated is None else facts | {"metrics": evaluated["metrics"]}


def describe_adapter(facts: dict[str, Any]) -> str:
    """Returns an adapter on a line; with its base on more."""
    if "problem" in facts:
        return f"{facts['name']}: {facts['problem']} {facts['remedy']}"
    parts = []
    for tower, (low, high) in facts["ranks"].items():
        rank = "" if not high else f"r {low}" if low == high else f"r {low} to {high}"
        parts.append(f"{tower} {rank}")
    if facts["trained_in_full"]:
        parts.append(f"{len(facts['trained_in_full'])} modules in full")
    parts.append(f"{facts['tensors']} tensors, {facts['size_mb']:.1f} MB")
    parts.append(time.strftime("%Y-%m-%d %H:%M", time.localtime(facts["saved_at"])))
    parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in facts["metrics"].items()]
    base = f" for {facts['base_name']}" if facts["base_name"] else ""
    lines = [f"{facts['name']}: {facts['label']}{base}, {', '.join(parts)}"]
    if "matched" in facts:
        lines.append(f"  {facts['matched']} of {facts['total']} tensors match {facts['base_model']}")
        lines += [f"  {note}" for note in facts["notes"]]
    if "loaded" in facts:
        compared = "" if facts["off"] is None else f"; off by {facts['off']:.2%} from the end of its run"
        lines.append(f"  loaded: {facts['loaded']}{compared}")
    return "\n".join(lines)


def _vlm_adapters() -> ModuleType:
    # PEFT imports bitsandbytes, which remarks on its kernels as it is imported.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return importlib.import_module("vlm.adapters")
