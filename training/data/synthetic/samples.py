"""The sample datasets: shapes, shapes-vi and blueprints, written as ordinary dataset folders. No torch.

Nothing is downloaded. Each folder has real PNG files below `images/` and a `metadata.jsonl` with `file_name`,
and either `question`, `answer` and `type`, or `text` (a caption). The same name and seed give the same files.
"""

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data.synthetic.phrases import (
    BLUEPRINT,
    ENGLISH,
    QUESTION_TYPES,
    VIETNAMESE,
    Phrasing,
    ask,
    caption,
)
from training.data.synthetic.scenes import Difficulty, Rendering, draw_scene, make_scene
from vlm.filesystem import new_folder


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How one sample dataset is rendered and phrased: by default 1,920 questions and 80 captions."""

    phrasing: Phrasing
    rendering: Rendering
    seed: int
    images: int = 480
    questions_per_image: int = 4
    caption_every: int | None = 6
    difficulty: Difficulty = field(default_factory=Difficulty)


SAMPLES = {
    "shapes": SampleSpec(ENGLISH, "shapes", 11),
    "shapes-vi": SampleSpec(VIETNAMESE, "shapes", 22),
    # A rendering that the starter has never seen needs many images: a LoRA on the vision tower memorized 480,
    # and 1,920 too. With one question about each the dataset still has but 5,000 examples.
    "blueprints": SampleSpec(
        BLUEPRINT, "blueprint", 33, images=4800, questions_per_image=1, caption_every=24
    ),
}


def make_sample(name: str, folder: Path, **changes: object) -> Path:
    """Writes the sample dataset `name` to `folder`, unless it is there, and returns the folder.

    `changes` are fields of `SampleSpec`: another `seed` gives other scenes of the same kind, for a test set.
    """
    if (folder / "metadata.jsonl").is_file():
        return folder
    spec = replace(SAMPLES[name], **changes)
    try:
        with new_folder(folder) as draft:
            (draft / "images").mkdir()
            # Questions draw from it too: with more of them all images after the first are others.
            rng = random.Random(spec.seed)
            rows = []
            for index in range(spec.images):
                scene = make_scene(rng, spec.difficulty)
                file_name = f"images/{index:04d}.png"
                draw_scene(scene, spec.rendering).save(draft / file_name)
                # No question type twice about an image: two questions of a type may be the same one.
                for kind in rng.sample(QUESTION_TYPES, spec.questions_per_image):
                    drawn = ask(scene, kind, spec.phrasing, rng)
                    row = {"question": drawn.question, "answer": drawn.answer, "type": drawn.type}
                    rows.append({"file_name": file_name, **row})
                if spec.caption_every is not None and index % spec.caption_every == 0:
                    rows.append({"file_name": file_name, "text": caption(scene, spec.phrasing)})
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (draft / "metadata.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError:
        # Another process may have been first; its files are the same.
        if not (folder / "metadata.jsonl").is_file():
            raise
    return folder
