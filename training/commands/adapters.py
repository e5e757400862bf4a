"""The commands about adapters: list those at hand, inspect one and check it against a base, merge it.

Called by training.__main__. Reading an adapter's files imports vlm.adapters, and torch with it; not before.
"""

import importlib
import logging
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from training import runs
from training.evaluation import compare
from training.runs import Run
from vlm.errors import UserError
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    from vlm.adapters import AdapterInfo


def listed(workspace: Path) -> list[dict[str, Any]]:
    """What each adapter at hand says of itself; of one that can't be read, what is wrong with it."""
    found = []
    for place in runs.list_adapters(workspace):
        try:
            info = _adapters().inspect(place.folder)
            found.append(facts(info, place.name, place.folder, place.run))
        except UserError as error:
            wrong = {"problem": error.problem, "remedy": error.remedy}
            found.append({"name": place.name, "path": str(place.folder)} | wrong)
    return found


def inspected(workspace: Path, words: str, model: str | None, revision: str | None) -> dict[str, Any]:
    """What an adapter says of itself, and how it matches a base: the one named, or the one of its run.

    Raises `UserError` where it can't be read or does not fit.
    """
    from vlm.meta_model import architecture

    place, adapters = runs.require_adapter(workspace, words), _adapters()
    folder, run = place.folder, place.run
    info = adapters.inspect(folder)
    told = facts(info, run.name if run else info.name, folder, run)
    if model is None and run is not None:
        model, revision = run.config().model, run.config().revision
    if model is not None:
        found = adapters.check(folder, architecture(model, revision), model)
        told |= {"ranks": found.info.ranks, "base_model": model}
        told |= {"matched": found.matched, "total": found.total, "notes": list(found.notes)}
    return told


def merged(workspace: Path, words: str, out: Path, settings: dict[str, Any]) -> Path:
    """Merge an adapter into its base: the one that `settings` name, or the one of its run.

    Raises `UserError` where no base is named, and as `vlm.adapters.merge` does.
    """
    place = runs.require_adapter(workspace, words)
    folder, run = place.folder, place.run
    if "model" not in settings and run is not None:
        config = run.config()
        settings = {"model": config.model, "revision": config.revision, "device": config.device} | settings
    if "model" not in settings:
        info = _adapters().inspect(folder)
        raise UserError(
            f"{info.name} is no run's adapter, and no base model was named.",
            f"Name it: --model {info.base_name or 'org/name'}",
        )
    _adapters().merge(ModelSettings(**settings), folder, out.expanduser())
    return out


def _adapters() -> ModuleType:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it remarks on kernels as it is imported
    return importlib.import_module("vlm.adapters")


def facts(info: "AdapterInfo", name: str, folder: Path, run: Run | None) -> dict[str, Any]:
    """An adapter as JSON has it; of a run's adapter the metrics are the run's."""
    told = asdict(info) | {"name": name, "path": str(folder), "label": info.label}
    ended = run.events({"evaluated", "finished", "stopped"}) if run else []
    evaluated = [event for event in ended if event["kind"] == "evaluated"]
    kept = ended[-1].get("best_step") if ended else None
    _, after = compare.ends(evaluated, kept)
    after = after or next(reversed(evaluated), None)
    return told if after is None else told | {"metrics": after["metrics"]}


def describe(told: dict[str, Any]) -> str:
    """An adapter on a line or two."""
    if "problem" in told:
        return f"{told['name']}: {told['problem']} {told['remedy']}"
    ranks = [f"{tower} {_rank(*bounds)}" for tower, bounds in told["ranks"].items()]
    in_full = [f"{len(told['trained_in_full'])} modules in full"] if told["trained_in_full"] else []
    saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(told["saved_at"]))
    metrics = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in told["metrics"].items()]
    base = f" for {told['base_name']}" if told["base_name"] else ""
    size = f"{told['tensors']} tensors, {told['size_mb']:.1f} MB"
    lines = [f"{told['name']}: {told['label']}{base}, {', '.join([*ranks, *in_full, size, saved, *metrics])}"]
    if "matched" in told:
        lines.append(f"  {told['matched']} of {told['total']} tensors match {told['base_model']}")
        lines += [f"  {note}" for note in told["notes"]]
    return "\n".join(lines)


def _rank(low: int, high: int) -> str:
    return "" if not high else f"r {low}" if low == high else f"r {low} to {high}"
