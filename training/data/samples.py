"""The sample datasets: shapes, shapes-vi and blueprints, written as ordinary dataset folders. No torch.

Nothing is downloaded. Each folder has real PNG files below `images/` and a `metadata.jsonl` with `file_name`,
and either `question`, `answer` and `type`, or `text` (a caption). The same name and seed give the same files.
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.phrases import BLUEPRINT, ENGLISH, QUESTION_TYPES, VIETNAMESE, Language, ask, caption
from training.data.scenes import Difficulty, Look, Scene, draw_scene, make_scene


@dataclass(frozen=True, slots=True)
class Sample:
    """How one sample dataset is drawn and talked about."""

    language: Language
    look: Look
    seed: int


SAMPLES = {
    "shapes": Sample(ENGLISH, "shapes", 11),
    "shapes-vi": Sample(VIETNAMESE, "shapes", 22),
    "blueprints": Sample(BLUEPRINT, "blueprint", 33),
}

IMAGES = 480
QUESTIONS_PER_IMAGE = 4
CAPTION_EVERY = 6
"""Every sixth image also has a caption: 480 x 4 questions and 80 captions are 2,000 examples."""


def make_sample(
    name: str,
    folder: Path,
    *,
    images: int = IMAGES,
    questions_per_image: int = QUESTIONS_PER_IMAGE,
    caption_every: int | None = CAPTION_EVERY,
    seed: int | None = None,
    difficulty: Difficulty | None = None,
) -> Path:
    """`folder` with the sample dataset in it. A folder that is already there is left as it is.

    The folder appears whole or not at all: it is written beside its place and renamed. Another `seed` than
    the sample's own gives other scenes of the same kind, for a test set.
    """
    if (folder / "metadata.jsonl").is_file():
        return folder
    sample = SAMPLES[name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (draft / "images").mkdir()
        rng = random.Random(sample.seed if seed is None else seed)
        with (draft / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for index in range(images):
                scene = make_scene(rng, difficulty or Difficulty())
                file_name = f"images/{index:04d}.png"
                draw_scene(scene, sample.look).save(draft / file_name)
                captioned = caption_every is not None and index % caption_every == 0
                for row in _rows(scene, sample.language, rng, questions_per_image, captioned):
                    lines.write(json.dumps({"file_name": file_name} | row, ensure_ascii=False) + "\n")
        draft.chmod(0o755)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _rows(
    scene: Scene, language: Language, rng: random.Random, questions: int, captioned: bool
) -> Iterator[dict[str, str]]:
    """Questions of different kinds, no two of them the same, and perhaps a caption."""
    asked: set[str] = set()
    kinds = rng.sample(QUESTION_TYPES, len(QUESTION_TYPES))
    for index in range(questions):
        drawn = ask(scene, kinds[index % len(kinds)], language, rng)
        if drawn.question not in asked:
            asked.add(drawn.question)
            yield {"question": drawn.question, "answer": drawn.answer, "type": drawn.type}
    if captioned:
        yield {"text": caption(scene, language)}


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename, unless another process was first with the same files."""
    try:
        os.rename(draft, folder)
    except OSError:
        if not (folder / "metadata.jsonl").is_file():
            raise
