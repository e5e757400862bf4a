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
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data.synthetic.phrases import (
    BLUEPRINT,
    ENGLISH,
    QUESTION_TYPES,
    VIETNAMESE,
    Language,
    ask,
    caption,
)
from training.data.synthetic.scenes import Difficulty, Look, Scene, draw_scene, make_scene


@dataclass(frozen=True, slots=True)
class Sample:
    """How one sample dataset is drawn and talked about: by default 1,920 questions and 80 captions."""

    language: Language
    look: Look
    seed: int
    images: int = 480
    questions_per_image: int = 4
    caption_every: int | None = 6
    difficulty: Difficulty = field(default_factory=Difficulty)


SAMPLES = {
    "shapes": Sample(ENGLISH, "shapes", 11),
    "shapes-vi": Sample(VIETNAMESE, "shapes", 22),
    # A new look wants many images: a vision LoRA learned 480, and 1,920 too, by heart.
    "blueprints": Sample(BLUEPRINT, "blueprint", 33, images=4800, questions_per_image=1, caption_every=24),
}


def make_sample(
    name: str,
    folder: Path,
    **changes: object,
) -> Path:
    """`folder` with the sample dataset in it. A folder that is already there is left as it is.

    The folder appears whole or not at all: it is written beside its place and renamed. `changes` are fields
    of `Sample`: another `seed` gives other scenes of the same kind, for a test set.
    """
    if (folder / "metadata.jsonl").is_file():
        return folder
    sample = replace(SAMPLES[name], **changes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (draft / "images").mkdir()
        rng = random.Random(sample.seed)
        with (draft / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for index in range(sample.images):
                scene = make_scene(rng, sample.difficulty)
                file_name = f"images/{index:04d}.png"
                draw_scene(scene, sample.look).save(draft / file_name)
                captioned = sample.caption_every is not None and index % sample.caption_every == 0
                for row in _rows(scene, sample.language, rng, sample.questions_per_image, captioned):
                    lines.write(json.dumps({"file_name": file_name} | row, ensure_ascii=False) + "\n")
        draft.chmod(0o755)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _rows(
    scene: Scene, language: Language, rng: random.Random, questions: int, captioned: bool
) -> Iterator[dict[str, str]]:
    """Questions, each of another kind, and perhaps a caption."""
    for kind in rng.sample(QUESTION_TYPES, questions):
        drawn = ask(scene, kind, language, rng)
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
