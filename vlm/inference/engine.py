"""Engine: questions in, answers out. Whose turn it is, which base is in memory, and how long it stays."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache
from PIL import Image

from vlm.example import Message
from vlm.inference.answering import Answer, answers, answers_at_once
from vlm.inference.asked import Asked, asked_about
from vlm.inference.inputs import ImageSize, Row
from vlm.inference.loaded_base import LoadedBase, LoadReport, check
from vlm.inference.turns import Question, Turns
from vlm.settings import (
    AS_THE_MODEL_HAS_IT,
    GREEDY,
    SAMPLING_RANGES,
    ModelSettings,
    Sampling,
    image_size_of,
)

# A question holds the base until its reader has taken the last answer, or goes.
READER_TIMEOUT_S = 10.0
BATCH_SIZE = 16

Images = Image.Image | Sequence[Image.Image] | None


class Engine:
    """Answers questions with a base model and its adapters, one question at a time, in order.

    With `idle_s` base and adapters leave memory when nothing was asked for so many seconds.
    """

    def __init__(self, idle_s: float | None = None) -> None:
        self.idle_s = idle_s
        self._turns = Turns()
        self._base: LoadedBase | None = None
        self._rest: threading.Timer | None = None

    def ask(
        self,
        model: str | ModelSettings,
        image: Images,
        question: str | Sequence[Message],
        answerers: Sequence[Path | None],
        max_new_tokens: int = 64,
        asker: str | None = None,
        *,
        sampling: Sampling = GREEDY,
    ) -> Iterator[list[Answer]]:
        """Yields all answers as they grow, one for each of `answerers`.

        An answerer is an adapter's folder, or None for the base. They answer in one batch where method and
        model allow it, else in turns: `Answer.together` says which. Greedy answers are those that each gives
        alone. With a seed or beams they answer in turns; beams are shown when they are done.

        `model` is a base model's name, or its settings, quantization included; their image size is the base's
        alone. `image` is RGB, as `training.data.images.load_image` returns it, or several in order.
        `question` is about them, or a conversation that holds a mark (`vlm.example.IMAGE`) for each and ends
        with the user's turn. Closing the iterator stops the generation, as `stop` with the same `asker` does.

        Raises:
            UserError: the model or an adapter can't be loaded, there is no image, or the conversation does
                not go with the images or the model.
        """
        asked, asking = asked_about(image, question), Question(asker)
        settings, sizes = _as_seen(model, answerers)
        found = [Answer() for _ in answerers]
        with self._turns.taken(asking) as its_turn:
            if not its_turn:
                return
            try:
                base = self._loaded(settings, answerers)
                pending = [Row(asked, folder, size) for folder, size in zip(answerers, sizes, strict=True)]
                places = [*range(len(pending))]
                while places and not asking.stop.is_set():
                    group = [places[at] for at in _group(base, [pending[at] for at in places], sampling)]
                    rows = [pending[at] for at in group]
                    for said in _generate(base, rows, max_new_tokens, sampling, asking.stop):
                        for at, answer in zip(group, said, strict=True):
                            found[at] = answer
                        yield list(found)
                    places = [at for at in places if at not in group]
            finally:
                self._begin_rest()

    def ask_many(
        self,
        model: str | ModelSettings,
        questions: Sequence[tuple[Images | Callable[[], Images], str | Sequence[Message]]],
        answerers: Sequence[Path | None],
        max_new_tokens: int = 64,
        asker: str | None = None,
        *,
        sampling: Sampling = GREEDY,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Answer]]:
        """Yields the finished answers of all `answerers` to each question, in order, as batches are done.

        A question is about an image or several, or a function that opens them when it is their turn.
        `batch_size` questions are answered at a time; greedy answers are those of `ask`. With beams or a
        temperature a batch has one answerer. After a Stop no more is yielded.

        Raises:
            UserError: as `ask`.
        """
        asking = Question(asker)
        settings, sizes = _as_seen(model, answerers)
        with self._turns.taken(asking) as its_turn:
            if not its_turn:
                return
            try:
                base = self._loaded(settings, answerers)
                for start in range(0, len(questions), batch_size):
                    if asking.stop.is_set():
                        return
                    part = questions[start : start + batch_size]
                    asked = [asked_about(im() if callable(im) else im, question) for im, question in part]
                    found = _answer_all(base, asked, answerers, sizes, max_new_tokens, sampling, asking.stop)
                    if asking.stop.is_set():
                        return
                    yield from found
            finally:
                self._begin_rest()

    def own_sampling(self, model: str | ModelSettings, asker: str | None = None) -> Sampling:
        """Returns how the model's makers sample from it, by its generation config; it is loaded for that.

        What lies outside of what can be chosen here is taken at its nearest end.
        """
        settings, _ = _as_seen(model, ())
        base = self._base
        if base is None or base.settings != settings:
            with self._turns.taken(Question(asker)) as its_turn:
                if not its_turn:
                    return GREEDY
                base = self._loaded(settings, ())
                self._begin_rest()
        rules = base.loaded.model.generation_config
        own = {name: getattr(rules, name, None) for name in SAMPLING_RANGES if name != "seed"}
        if not rules.do_sample:
            own = {"num_beams": own["num_beams"], "repetition_penalty": own["repetition_penalty"]}
        elif own["temperature"] is None:
            own["temperature"] = 1.0
        return Sampling(
            **{
                name: min(max(value, SAMPLING_RANGES[name][0]), SAMPLING_RANGES[name][1])
                for name, value in own.items()
                if value is not None
            }
        )

    def load_report(self, folder: Path) -> LoadReport | None:
        """Returns what the last loading of this adapter has shown, or None if it is not on this base."""
        base = self._base
        return base.reports.get(folder) if base else None

    def waiting(self) -> int:
        """Returns how many questions wait behind the one that is answered."""
        return self._turns.waiting()

    def stop(self, asker: str | None = None) -> None:
        """Ends the answers of this asker's questions: what is being given after its next token."""
        self._turns.stop(asker)

    def held(self) -> tuple[str, int]:
        """Returns the type of the device that the base lies on, and its bytes: ("cpu", 0) without one."""
        base = self._base
        return (base.loaded.device.type, base.nbytes()) if base else ("cpu", 0)

    def let_go(self) -> bool:
        """Takes base and adapters out of memory; the next question loads them again.

        Whatever is asked is ended first. Returns False where a reader keeps its answer for too long.
        """
        self._turns.stop_all()
        with self._turns.taken(Question(), READER_TIMEOUT_S) as its_turn:
            if its_turn:
                self._forget()
        return its_turn

    def _forget(self) -> None:
        self._base = None
        clear_device_cache(garbage_collection=True)

    def _begin_rest(self) -> None:
        """Lets base and adapters go if nothing is asked from now on for as long as `idle_s`."""
        if self._rest is not None:
            self._rest.cancel()
        if self.idle_s is not None:
            self._rest = threading.Timer(self.idle_s, self._let_go_if_idle)
            self._rest.daemon = True
            self._rest.start()

    def _let_go_if_idle(self) -> None:
        if self._turns.idle():
            with self._turns.taken(Question(), 0) as its_turn:
                if its_turn:
                    self._forget()

    def _loaded(self, settings: ModelSettings, answerers: Sequence[Path | None]) -> LoadedBase:
        """Returns this base in memory, its adapters checked. Raises `UserError` where one does not fit."""
        if self._rest is not None:
            self._rest.cancel()
        folders = [folder for folder in answerers if folder is not None]
        if self._base is not None and self._base.settings == settings:
            self._base.check(folders)
            return self._base
        # All adapters first: a misfit is refused before gigabytes of the base are read.
        checked = check(settings, folders, {})
        # The old base goes before the new one comes: both need not fit in memory.
        self._base = None
        self._base = LoadedBase(settings, checked)
        return self._base


def _as_seen(
    model: str | ModelSettings, answerers: Sequence[Path | None]
) -> tuple[ModelSettings, list[ImageSize]]:
    """Returns a base's settings without an image size, and the size at which each answerer sees images."""
    settings = ModelSettings(model=model) if isinstance(model, str) else model
    # An adapter sees images as large as it has learned them, the base as large as is asked.
    sizes = [image_size_of(folder) if folder else settings.image_size for folder in answerers]
    return settings.model_copy(update=AS_THE_MODEL_HAS_IT), sizes


def _group(base: LoadedBase, rows: Sequence[Row], sampling: Sampling) -> list[int]:
    """Returns which rows go in one batch with the first."""
    # Drawn with a seed, or followed in beams, a row is to be what it is alone.
    if sampling.num_beams > 1 or sampling.seed is not None:
        return [0]
    found = base.joined([row.folder for row in rows])
    # Pixels of one batch have one size; features go beside each other whatever they were.
    of_pixels = base.inputs.encoder is None
    return [at for at in found if not of_pixels or rows[at].size == rows[0].size]


def _answer_all(
    base: LoadedBase,
    asked: Sequence[Asked],
    answerers: Sequence[Path | None],
    sizes: Sequence[ImageSize],
    max_new_tokens: int,
    sampling: Sampling,
    stop: threading.Event,
) -> list[list[Answer]]:
    """Returns the answers of each answerer to each question, in as few batches as can be."""
    found = [[Answer() for _ in answerers] for _ in asked]
    places = [*range(len(answerers))]
    while places and not stop.is_set():
        who = [Row(asked[0], answerers[at], sizes[at]) for at in places]
        group = [places[0]] if sampling.draws else [places[at] for at in _group(base, who, sampling)]
        cells = [(number, at) for number in range(len(asked)) for at in group]
        rows = [Row(asked[number], answerers[at], sizes[at]) for number, at in cells]
        for said in _generate(base, rows, max_new_tokens, sampling, stop, keep=False):
            for (number, at), answer in zip(cells, said, strict=True):
                found[number][at] = answer
        places = [at for at in places if at not in group]
    return found


def _generate(
    base: LoadedBase,
    rows: Sequence[Row],
    max_new_tokens: int,
    sampling: Sampling,
    stop: threading.Event,
    *,
    keep: bool = True,
) -> Iterator[list[Answer]]:
    """Yields the answers of one batch as they grow."""
    beams = sampling.num_beams > 1
    # A beam is a row of its own that `generate` makes of tensors, and features are none.
    inputs = base.batch(rows, by_pixels=beams, keep=keep)
    with base.answering([row.folder for row in rows]) as call:

        def generate(**how: object) -> torch.Tensor:
            with _drawn_from(sampling.seed, base.loaded.device):
                return call(**inputs, **sampling.arguments(), max_new_tokens=max_new_tokens, **how)

        if beams:
            said = answers_at_once(
                generate, lambda sequences: base.inputs.prompt.decode(sequences, inputs), stop
            )
        else:
            said = answers(generate, len(rows), base.loaded.processor.tokenizer, base.ends, stop)
        # A decoder that begins with nothing has no text to read.
        mask = inputs.get("attention_mask")
        read = [0] * len(rows) if mask is None else mask.sum(1).tolist()
        with closing(said):
            for found in said:
                yield [replace(each, prompt_tokens=n) for each, n in zip(found, read, strict=True)]


@contextmanager
def _drawn_from(seed: int | None, device: torch.device) -> Iterator[None]:
    """Tokens are drawn from this seed while it is open; afterwards all generators go on as before."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
