"""The commands that make adapters ready to go elsewhere: export one for servers, bundle several."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.commands.adapters import place_and_base, vlm_adapters
from training.commands.output import print_result
from training.commands.parser import CliCommand
from training.model_card import write_exported_card
from training.runs.adapters import AdapterPlace
from vlm.errors import UserError
from vlm.filesystem import free_name, new_folder, slug, typed_path, write_atomic
from vlm.machine import system
from vlm.models.where_it_loads import Loading, where_it_loads
from vlm.settings import ModelSettings

CARD = "README.md"
MANIFEST = "bundle.json"
# What vLLM's `--max-lora-rank` takes (MaxLoRARanks in vllm/config/lora.py); a larger rank does not load.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def export_adapter(command: CliCommand) -> int:
    """Write an adapter as one plain LoRA to a new folder, and prove that it answers as the adapter does.

    Raises:
        UserError: no such adapter, the folder is there already, or as `vlm.adapters.export_for_servers` does.
    """
    out = typed_path(command.values["out"])
    if (target := command.values.get("for") or "servers") != "servers":
        raise UserError(
            "--for: adapters are exported for servers, not for {target!r}.",
            "Give --for servers, or leave it out.",
            "export-for-whom",
            target=target,
        )
    _require_new(out)
    place, settings = place_and_base(command, command.values["adapter"])
    with new_folder(out) as draft:
        told, verdicts = _export(place, settings, draft)
    lines = [*_described(told | {"path": str(out)}), *(f"  {verdict}" for verdict in verdicts)]
    print_result(command, told | {"path": str(out)}, "\n".join(lines))
    return 0


def bundle(command: CliCommand) -> int:
    """Export several adapters of one base into one folder, with a manifest and the lines that start them.

    Raises:
        UserError: fewer than one adapter and a folder are named, the adapters have several bases, or as
            `export_adapter` does.
    """
    *names, last = command.values["adapters"]
    if not names:
        raise UserError(
            "A bundle takes adapters and the folder to write them to: only {name} was named.",
            "Name the runs, and a new folder last.",
            "bundle-of-nothing",
            name=last,
        )
    out = typed_path(last)
    _require_new(out)
    found = [place_and_base(command, name) for name in dict.fromkeys(names)]
    bases = list(dict.fromkeys((settings.model, settings.revision) for _, settings in found))
    if len(bases) > 1:
        raise UserError(
            "These adapters are of several bases: {bases}.",
            "Bundle those of each base for themselves.",
            "bundle-of-bases",
            bases=[base for base, _ in bases],
        )
    told = []
    with new_folder(out) as draft:
        for place, settings in found:
            name = free_name(draft / "adapters", slug(place.name, "adapter"))
            (draft / "adapters" / name).mkdir(parents=True)
            facts, _ = _export(place, settings, draft / "adapters" / name)
            told.append(facts | {"path": f"adapters/{name}"})
        base = told[0]["base_name"]  # never a folder of this machine
        manifest = {"base": base, "revision": bases[0][1], "adapters": told, "start": start_lines(base, told)}
        write_atomic(draft / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2))
    lines = [line for facts in told for line in _described(facts | {"path": str(out / facts["path"])})]
    lines += [f"{name}: {line}" for name, line in manifest["start"].items()]
    print_result(command, manifest | {"path": str(out)}, "\n".join(lines))
    return 0


def start_lines(base: str, adapters: list[dict[str, Any]]) -> dict[str, str]:
    """Returns by server the line that starts it with all these adapters, from inside the bundle's folder.

    Servers where one of them does not load have none.
    """
    everywhere = [{found["runtime"]: found for found in facts["where_it_loads"]} for facts in adapters]
    named = [(Path(facts["path"]).name, facts["path"]) for facts in adapters]
    modules = " ".join(system.quoted(f"{name}={path}") for name, path in named)
    rank, model = max(facts["rank"] for facts in adapters), system.quoted(base)
    lines = {}
    if rank <= VLLM_RANKS[-1] and all(verdicts["vLLM"]["verdict"] != "does_not" for verdicts in everywhere):
        flag = "--enable-tower-connector-lora"
        tower = f" {flag}" if any(flag in verdicts["vLLM"]["because"] for verdicts in everywhere) else ""
        highest = next(most for most in VLLM_RANKS if most >= rank)
        lines["vLLM"] = (
            f"vllm serve {model} --enable-lora --max-lora-rank {highest}{tower} --lora-modules {modules}"
        )
    if all(verdicts["SGLang"]["verdict"] != "does_not" for verdicts in everywhere):
        lines["SGLang"] = (
            f"python -m sglang.launch_server --model-path {model} --enable-lora --lora-paths {modules}"
        )
    return lines


def _export(
    place: AdapterPlace, settings: ModelSettings, folder: Path
) -> tuple[dict[str, Any], tuple[Loading, ...]]:
    """Export an adapter to an empty folder with its card; returns what is told of it, and where it loads."""
    found = vlm_adapters().export_for_servers(settings, place.folder, folder)
    facts = vlm_adapters().read_facts(folder, found.model_type)
    # A run's card is ours; another's could hold anything.
    own = place.run and place.folder / CARD
    card = own.read_text("utf-8") if own and own.is_file() else None
    write_exported_card(folder, place.name, place.folder, found, facts, card)
    verdicts = where_it_loads(facts)
    told = asdict(found) | {"name": place.name, "where_it_loads": [verdict.as_dict() for verdict in verdicts]}
    return told, verdicts


def _described(told: dict[str, Any]) -> list[str]:
    return [
        f"{told['name']} is a plain LoRA of rank {told['rank']} in {told['path']}, {told['layers']} layers.",
        f"  loaded anew in plain PEFT: logits off by {told['off']:.1e} at most; "
        f"the adapter moves the base's by {told['effect']:.1e}",
    ]


def _require_new(folder: Path) -> None:
    if folder.exists():
        raise UserError(
            "{folder} is there already.",
            "Choose a new folder for what is exported.",
            "export-folder-exists",
            folder=folder,
        )
