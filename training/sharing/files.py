"""What a finished run can be taken away as: its adapter in a zip, answers, loss chart, pictures. No torch.

Called by the command `take` and by the page.
"""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from training.config import TrainingConfig
from training.evaluation import answers, compare
from training.runs import Run
from training.sharing import samples
from training.sharing.answer_table import WRITERS, rows_of
from training.sharing.drawing import ENGLISH, Words, loss_chart, share_picture
from vlm.errors import UserError
from vlm.filesystem import new_file, room_for
from vlm.methods import ADAPTER_CONFIG_FILE, METHODS

SHARED, CARD = (".safetensors", ".json"), "README.md"


def write_zip(run: Run, file: Path) -> None:
    """Writes the adapter's files into a zip, in a folder of the run's name.

    Raises:
        UserError: the run has no adapter, or there is no room for the zip.
    """
    files = files_to_share(require_adapter_of(run))
    # Not compressed: weights hardly get smaller.
    with (
        room_for(file, sum(path.stat().st_size for path in files)),
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for path in files:
            archive.write(path, f"{run.name}/{path.name}")


def require_adapter_of(run: Run) -> Path:
    """Returns the folder of a run's adapter. Raises `UserError` where there is none."""
    if not (run.adapter_path / ADAPTER_CONFIG_FILE).is_file():
        raise UserError(
            "{name} has no adapter to take away.",
            "Let it finish, or resume it.",
            "nothing-to-take",
            name=run.name,
        )
    return run.adapter_path


def files_to_share(adapter: Path) -> list[Path]:
    """Returns the files of an adapter's folder that others get: safetensors, JSON and the card.

    Whatever else somebody has put there may be private.
    """
    files = [path for path in adapter.iterdir() if path.is_file() and not path.is_symlink()]
    return sorted(path for path in files if path.suffix in SHARED or path.name == CARD)


def draw_loss(run: Run, file: Path, words: Words = ENGLISH) -> None:
    """Draws the loss by step into a PNG.

    Raises:
        UserError: no loss was logged.
    """
    steps = {event["step"]: event["loss"] for event in run.events({"step"})}
    held_out = {event["step"]: event["loss"] for event in answers.evaluated_of(run)[0]}
    losses = [
        [(step, one[step]) for step in sorted(one) if one[step] is not None] for one in (steps, held_out)
    ]
    if not any(losses):
        raise UserError(
            "{name} has logged no loss.", "Let it train a few steps.", "no-loss-logged", name=run.name
        )
    loss_chart(run.name, *losses, words).save(file, "PNG")


def draw_share(run: Run, file: Path | BinaryIO, words: Words = ENGLISH) -> None:
    """Draws four examples before and after with the paired verdict into a PNG.

    Raises:
        UserError: base and adapter were not asked about the same examples.
    """
    pairs = samples.of_run(run)
    evaluated, best_step = answers.evaluated_of(run)
    verdict = answers.against_base(run.path, evaluated, best_step)
    if not pairs or verdict is None:
        raise UserError(
            "{name} has no answers from before and after training.",
            "Train with --held_out above 0 and --evaluations above 0.",
            "nothing-before-and-after",
            name=run.name,
        )
    config = run.config()
    sentence = f"{words.say(verdict.words(compare.ADAPTER, compare.BASE))}."
    images = {pair.image: samples.image_file(config, pair.image) for pair in pairs if pair.image}
    there = {name: path for name, path in images.items() if path is not None}
    share_picture(run.name, about(config), pairs, there, sentence, words).save(file, "PNG")


def about(config: TrainingConfig) -> str:
    """Returns method, base and dataset in a row, folders without their places."""
    names = [Path(name).name if Path(name).is_absolute() else name for name in (config.model, config.dataset)]
    return " · ".join([METHODS[config.method].label, *names])


def write_answers(run: Run, file: Path, form: str) -> None:
    """Writes every answer, as "csv" or "jsonl". Raises `UserError` as `rows_of`."""
    WRITERS[form](rows_of(run), file)


def write_lines(run: Run, file: Path) -> None:
    """Writes `lines_of` to a file of Python. Raises `UserError` as that does."""
    file.write_text(lines_of(run), encoding="utf-8")


def lines_of(run: Run) -> str:
    """Returns five lines of Python that ask the adapter about the run's first watched example.

    Raises:
        UserError: the run has no adapter, or as `vlm.adapters.python_lines`.
    """
    from vlm.adapters.python_lines import python_lines  # torch, which nothing else here needs

    folder, config, pairs = require_adapter_of(run), run.config(), samples.of_run(run)
    pair = next((pair for pair in pairs if pair.image), None)
    image = pair and samples.image_file(config, pair.image)
    question = pair.question if pair and image else "What is in this picture?"
    longest = config.max_new_tokens or 64
    return python_lines(config, folder, image or Path("picture.jpg"), question, longest)


KINDS: dict[str, str] = {
    "adapter": "{name}-adapter.zip",
    "answers_csv": "{name}-answers.csv",
    "answers_jsonl": "{name}-answers.jsonl",
    "loss": "{name}-loss.png",
    "share": "{name}-before-after.png",
    "python": "{name}-ask.py",
}
"""What can be taken, and what its file is called."""


def write(run: Run, kind: str, folder: Path, words: Words = ENGLISH) -> Path:
    """Returns the file of a kind in this folder, written whole or not at all.

    Raises:
        UserError: the run has no such thing.
        OSError: it can't be written.
    """
    writers: dict[str, Callable[[Run, Path], None]] = {
        "adapter": write_zip,
        "answers_csv": partial(write_answers, form="csv"),
        "answers_jsonl": partial(write_answers, form="jsonl"),
        "loss": partial(draw_loss, words=words),
        "share": partial(draw_share, words=words),
        "python": write_lines,
    }
    file = folder / KINDS[kind].format(name=run.name)
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(file) as draft:
        writers[kind](run, draft)
    return file
