"""The commands that make adapters ready to go elsewhere: export one for servers."""

from dataclasses import asdict
from pathlib import Path

from training.commands.adapters import place_and_base, vlm_adapters
from training.commands.output import print_result
from training.commands.parser import CliCommand
from training.model_card import write_exported_card
from vlm.errors import UserError
from vlm.filesystem import new_folder, typed_path

CARD = "README.md"


def export_adapter(command: CliCommand) -> int:
    """Write an adapter as one plain LoRA to a new folder, and prove that it answers as the adapter does.

    Raises:
        UserError: no such adapter, the folder is there already, or as `vlm.adapters.export_for_servers` does.
    """
    name, out = command.values["adapter"], typed_path(command.values["out"])
    if (target := command.values.get("for") or "servers") != "servers":
        raise UserError(
            "--for: adapters are exported for servers, not for {target!r}.",
            "Give --for servers, or leave it out.",
            "export-for-whom",
            target=target,
        )
    require_new(out)
    place, settings = place_and_base(command, name)
    with new_folder(out) as draft:
        found = vlm_adapters().export_for_servers(settings, place.folder, draft)
        # A run's card is ours; another's could hold anything.
        own = place.run and place.folder / CARD
        card = own.read_text("utf-8") if own and own.is_file() else None
        write_exported_card(draft, place.name, place.folder, found, card)
    facts = asdict(found) | {"name": place.name, "path": str(out)}
    print_result(
        command,
        facts,
        f"{place.name} is a plain LoRA of rank {found.rank} in {out}, {found.layers} layers.\n"
        f"  loaded anew in plain PEFT: logits off by {found.off:.1e} at most; "
        f"the adapter moves the base's by {found.effect:.1e}",
    )
    return 0


def require_new(folder: Path) -> None:
    """Refuses a folder that is there already."""
    if folder.exists():
        raise UserError(
            "{folder} is there already.",
            "Choose a new folder for what is exported.",
            "export-folder-exists",
            folder=folder,
        )
