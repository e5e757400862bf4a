"""What can be asked by name: the base, the adapters that were named, and those of a workspace. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training import runs
from training.runs.adapters import AdapterPlace, base_called
from training.serving.errors import ApiError
from vlm.errors import UserError
from vlm.filesystem import FileStamp, file_stamp
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from vlm.settings import GenerationSettings, ModelSettings

# Of what there is, where a name is asked for that there is not.
NAMES_TOLD = 20


@dataclass(frozen=True, slots=True)
class Offered:
    """A model to ask by `name`: the adapter in `folder`, or the base. `created` is in seconds since 1970."""

    name: str
    folder: Path | None
    created: int
    max_new_tokens: int


@dataclass
class Offers:
    """The base, adapters that were `named`, and all others of `workspace` that fit the base, if there is one.

    Adapters that are trained meanwhile appear: the workspace is looked through at each call, and the files
    of an adapter are read again only where they have changed.
    """

    base: ModelSettings
    named: Sequence[AdapterPlace]
    workspace: Path | None
    began: int
    _known: dict[tuple[Path, FileStamp | None, FileStamp | None], int | None] = field(default_factory=dict)

    def all(self) -> list[Offered]:
        """Returns the base, then adapters; of several with one name the first alone."""
        offered = {}
        for place in self._places():
            weights = place.folder / ADAPTER_WEIGHTS_FILE
            if place.name not in offered and (longest := self._longest_answer(place)):
                saved_at = int(weights.stat().st_mtime)
                offered[place.name] = Offered(place.name, place.folder, saved_at, longest)
        base = base_called(self.base.model)
        usual = GenerationSettings().max_new_tokens
        return [*({base: Offered(base, None, self.began, usual)} | offered).values()]

    def find(self, name: str) -> Offered:
        """Returns what is called so.

        Raises:
            ApiError: nothing is.
        """
        offered = self.all()
        if found := next((each for each in offered if each.name == name), None):
            return found
        names = ", ".join(each.name for each in offered[:NAMES_TOLD])
        words = f"There is no model {name[:200]!r} here. There are: {names}."
        raise ApiError(404, words, "model_not_found", param="model")

    def _places(self) -> Iterator[AdapterPlace]:
        yield from self.named
        yield from runs.list_adapters(self.workspace) if self.workspace else ()

    def _longest_answer(self, place: AdapterPlace) -> int | None:
        """Returns how many tokens its answers have at most; None of what is no adapter of the base."""
        files = [file_stamp(place.folder / name) for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)]
        key = (place.folder, *files)
        if key not in self._known:
            try:
                self._known[key] = self._read(place)
            except UserError:  # damaged, or of another base: it is not offered, and hides no other
                self._known[key] = None
        return self._known[key]

    def _read(self, place: AdapterPlace) -> int | None:
        from vlm import adapters
        from vlm.meta_model import architecture

        usual = GenerationSettings().max_new_tokens
        if run := place.run or runs.run_of(place.folder):
            config = run.config()
            if (config.model, config.revision) == (self.base.model, self.base.revision):
                return config.max_new_tokens or usual
        if place.run is None:
            base = architecture(self.base.model, self.base.revision)
            adapters.check_fit(place.folder, base, base_called(self.base.model))
            return usual
        return None
