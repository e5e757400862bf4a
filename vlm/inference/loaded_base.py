"""One base in memory and the adapters on it: loaded on first use, probed, switched, several in one batch."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BatchFeature

from vlm import adapters
from vlm.errors import UserError
from vlm.filesystem import FileStamp, file_stamp
from vlm.inference.inputs import INCOMPATIBLE, SAME_WITHIN, ModelInputs, Row
from vlm.meta_model import architecture
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, METHODS
from vlm.models.loading import load_base
from vlm.oom import is_out_of_memory
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

ADAPTERS_KEPT = 4
# What PEFT calls the base among the adapters of a mixed batch.
BASE_ROW = "__base__"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading an adapter has shown: "412 of 412 tensors match; answers differ from the base's"."""

    check: adapters.AdapterCheck
    probe: adapters.Probe

    def __str__(self) -> str:
        return f"{self.check}; {self.probe}"


# An adapter's folder, and the stamps of its configuration and weights: one that was trained again since is
# another adapter, and is loaded again.
AdapterKey = tuple[Path, FileStamp | None, FileStamp | None]
Checked = dict[AdapterKey, adapters.AdapterCheck]


def adapter_key(folder: Path) -> AdapterKey:
    return folder, file_stamp(folder / ADAPTER_CONFIG_FILE), file_stamp(folder / ADAPTER_WEIGHTS_FILE)


def check(settings: ModelSettings, folders: Sequence[Path], checked: Checked) -> Checked:
    """Returns `checked` with these adapters, whose fit to the base's architecture is found without weights.

    Raises:
        UserError: one does not fit.
    """
    found = dict(checked)
    for key in map(adapter_key, folders):
        if key not in found:
            base = architecture(settings.model, settings.revision)
            found[key] = adapters.check_fit(key[0], base, settings.model)
    return found


class LoadedBase:
    """A base model, and what has been asked of its adapters.

    LoRAs lie side by side on the base and are switched; an adapter of another method, or one that trains a
    module in full, has the base to itself and is unloaded before the next.
    """

    def __init__(self, settings: ModelSettings, checked: Checked) -> None:
        self.settings, self.checked = settings, checked
        self.loaded = load_base(settings)
        self.inputs = ModelInputs(settings, self.loaded)
        self.reports: dict[Path, LoadReport] = {}
        self._model: adapters.PeftModel | None = None
        self._names: dict[AdapterKey, str] = {}  # the one used last is the last
        self._mixes: dict[AdapterKey, bool] = {}
        self._text_only: dict[AdapterKey, bool] = {}
        ends = self.loaded.model.generation_config.eos_token_id
        self.ends: set[int] = {*ends} if isinstance(ends, list) else {ends} - {None}

    def nbytes(self) -> int:
        """Returns the bytes that base, adapters and kept features take."""
        return self.loaded.model.get_memory_footprint() + self.inputs.kept.bytes

    def check(self, folders: Sequence[Path]) -> None:
        self.checked = check(self.settings, folders, self.checked)

    def activate(self, folder: Path) -> str:
        """Loads an adapter where it isn't yet, switches it on, and returns PEFT's name for it.

        Raises:
            UserError: it does not fit, or would change the base.
        """
        key = adapter_key(folder)
        if key in self._names:
            self._names[key] = self._names.pop(key)
            self._model.set_adapter(self._names[key], inference_mode=True)
            return self._names[key]
        self.check([folder])  # its files may have changed since the question came in
        checked, untouched = self.checked[key], self.inputs.untouched
        name = self._load(key)
        question = self.inputs.to_device(self.inputs.probe)
        probe = adapters.probe(self._model, question, untouched)
        if not probe.base_kept:
            self.take_off()
            raise UserError(
                "{name}, switched off, leaves the base with other answers than its own.",
                "Choose another adapter.",
                "adapter-changes-base",
                name=checked.info.name,
            )
        self.reports[folder] = LoadReport(checked, probe)
        logger.info("%s: %s", checked.info.name, self.reports[folder])
        if key not in self._mixes:
            self._mixes[key] = self._proves_to_mix(folder, name)
            if key not in self._names:  # what failed in a mixed batch was taken off with all others
                self._load(key)
        if len(self._names) > ADAPTERS_KEPT:
            oldest = next(iter(self._names))  # dicts keep the order of insertion
            self._model.delete_adapter(self._names.pop(oldest))
        self._model.set_adapter(self._names[key], inference_mode=True)
        return self._names[key]

    def joined(self, folders: Sequence[Path | None]) -> list[int]:
        """Returns which of these can answer in one batch with the first, as indices: itself at least.

        Without features of images a batch has rows of one answerer alone: PEFT has no names for the rows that
        a vision tower makes of an image.
        """
        first = folders[0]
        if self.inputs.encoder is None or not self._can_join(first):
            return [index for index, folder in enumerate(folders) if folder == first]
        found: list[int] = []
        others: set[Path] = set()
        for index, folder in enumerate(folders):
            full = len(others) == ADAPTERS_KEPT and folder not in others
            if folder is not None and (full or not self._can_join(folder)):
                continue
            found.append(index)
            others |= {folder} - {None}
        return found

    def batch(self, rows: Sequence[Row], *, by_pixels: bool = False, keep: bool = True) -> BatchFeature:
        """Returns what `generate` takes for these rows, on the base's device."""
        if by_pixels or self.inputs.encoder is None or any(self._has_prompts(row.folder) for row in rows):
            return self.inputs.of_pixels(rows)
        parts = [self._vision_part(row.folder) for row in rows]
        return self.inputs.of_features(rows, parts, self._answering_alone, keep=keep)

    @contextmanager
    def answering(self, folders: Sequence[Path | None]) -> Iterator[Callable[..., torch.Tensor]]:
        """Hands over `generate` of a batch with these answerers, a row each, that `joined` found to go."""
        if len({*folders}) == 1:
            with self._answering_alone(folders[0]) as model:
                yield model.generate
            return
        named = {folder: BASE_ROW if folder is None else self.activate(folder) for folder in {*folders}}

        def generate(**how: object) -> torch.Tensor:
            return self._model.generate(**how, adapter_names=[named[folder] for folder in folders])

        try:
            yield generate
        except Exception:
            # PEFT leaves the names at its layers where a mixed batch fails; they go with the layers.
            self.take_off()
            raise

    def take_off(self) -> None:
        """Unloads all adapters."""
        if self._names:
            adapters.unload(self._model)
        self._names.clear()
        self._model = None

    @contextmanager
    def _answering_alone(self, folder: Path | None) -> Iterator[torch.nn.Module]:
        if folder is not None:
            self.activate(folder)
            yield self._model
        elif self._names:
            with adapters.base_alone(self._model) as base:
                yield base
        else:
            yield self.loaded.model

    def _load(self, key: AdapterKey) -> str:
        """Puts a checked adapter onto the base, beside the others where it can, and switches it on."""
        # PEFT names modules after it: a name of its own keeps what was deleted from coming back.
        name, checked = f"adapter_{time.monotonic_ns()}", self.checked[key]
        if self._names and adapters.can_coexist(self._model, checked):
            adapters.add(self._model, checked, name)
        else:
            self.take_off()
            self._model = adapters.load_checked(self.loaded.model, checked, name)
        self._names[key] = name
        self._model.set_adapter(name, inference_mode=True)
        return name

    def _can_join(self, folder: Path | None) -> bool:
        if folder is None:
            return True
        self.check([folder])
        if not adapters.can_mix(self.checked[adapter_key(folder)]):
            return False
        self.activate(folder)
        return self._mixes[adapter_key(folder)]

    def _vision_part(self, folder: Path | None) -> AdapterKey | None:
        """Returns the adapter where it changes vision tower or connector, else None: they are the base's."""
        if folder is None:
            return None
        self.check([folder])
        key = adapter_key(folder)
        if key not in self._text_only:
            self._text_only[key] = adapters.is_text_only(self.loaded.model, self.checked[key])
        return None if self._text_only[key] else key

    def _has_prompts(self, folder: Path | None) -> bool:
        # PEFT makes their batches itself, from what it knows of inputs.
        if folder is None:
            return False
        self.check([folder])
        return METHODS[self.checked[adapter_key(folder)].info.method].prompt_learning

    def _proves_to_mix(self, folder: Path, name: str) -> bool:
        """Whether this adapter and the base give the probe's logits in one batch as each does alone."""
        key = adapter_key(folder)
        if self.inputs.encoder is None or not adapters.can_mix(self.checked[key]):
            return False
        part = self._vision_part(folder)
        features = self.inputs.probe_features(self._answering_alone(None if part is None else folder))
        base = self.inputs.probe_features(self._answering_alone(None)) if part is not None else features
        self._model.set_adapter(name, inference_mode=True)
        alone = adapters.first_logits(self._model, self.inputs.probe_batch([features]))
        try:
            mixed = adapters.first_logits(
                self._model, self.inputs.probe_batch([features, base]), [name, BASE_ROW]
            )
        except INCOMPATIBLE as error:
            self.take_off()
            if is_out_of_memory(error):
                raise
            logger.info("%s answers apart from others: %s", folder, error)
            return False
        wanted = torch.cat([alone, self.inputs.untouched])
        return bool(adapters.logits_off(mixed, wanted) <= SAME_WITHIN[self.loaded.precision])
