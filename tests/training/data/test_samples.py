"""The sample datasets: a seed gives the same files each time, and a question has exactly one right answer."""

import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from training.data.synthetic.phrases import (
    BLUEPRINT,
    ENGLISH,
    QUESTION_TYPES,
    VIETNAMESE,
    Phrasing,
    ask,
    caption,
)
from training.data.synthetic.samples import SAMPLES, make_sample
from training.data.synthetic.scenes import (
    FILLS,
    GRID,
    IMAGE_SIZE,
    SHAPES,
    Difficulty,
    Scene,
    draw_scene,
    make_scene,
)

LANGUAGES = {"English": ENGLISH, "Vietnamese": VIETNAMESE, "blueprint": BLUEPRINT}


def scenes(count: int, seed: int = 5) -> Iterator[Scene]:
    rng = random.Random(seed)
    return (make_scene(rng, Difficulty()) for _ in range(count))


def right_answers(scene: Scene, language: Phrasing, question: str) -> set[str]:
    """Every answer that is true of the scene, for every way to understand the question."""
    items, answers = scene.objects, set()
    for shape in SHAPES:
        for fill in range(FILLS):
            for cell in range(GRID**2):
                words = {
                    "shape": language.shapes[shape],
                    "shapes": language.plurals[shape],
                    "fill": language.fills[fill],
                    "place": language.places[cell],
                }
                same_shape = [item for item in items if item.shape == shape]
                same_fill = [item for item in items if item.fill == fill]
                both = [item for item in same_shape if item.fill == fill]
                here = [item for item in items if item.cell == cell]
                truths = {
                    "fill of shape": {language.fills[item.fill] for item in same_shape},
                    "fill of place": {language.fills[item.fill] for item in here},
                    "shape of fill": {language.shapes[item.shape] for item in same_fill},
                    "shape of place": {language.shapes[item.shape] for item in here},
                    "count all": {language.numbers[len(items)]},
                    "count fill": {language.numbers[len(same_fill)]},
                    "count shape": {language.numbers[len(same_shape)]},
                    "place of shape": {language.places[item.cell] for item in same_shape},
                    "place of both": {language.places[item.cell] for item in both},
                    "is there": {language.yes if both else language.no},
                    "is large": {language.yes if item.large else language.no for item in same_shape},
                    "is small": {language.no if item.large else language.yes for item in same_shape},
                }
                for pattern, truth in truths.items():
                    if language.patterns[pattern].format(**words) == question:
                        answers |= truth
    return answers


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_every_question_has_exactly_one_right_answer_and_it_is_the_one_given(language: Phrasing) -> None:
    rng = random.Random(1)
    kinds = Counter()
    for scene in scenes(60):
        for kind in QUESTION_TYPES:
            asked = ask(scene, kind, language, rng)
            assert right_answers(scene, language, asked.question) == {asked.answer}, (scene, asked)
            kinds[asked.type] += 1
    assert set(kinds.values()) == {60}


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_a_caption_names_every_object_with_its_size_fill_shape_and_place(language: Phrasing) -> None:
    for scene in scenes(30):
        things = caption(scene, language).split(language.joiner)
        assert len(things) == len(scene.objects)
        for thing, item in zip(things, scene.objects, strict=True):
            words = (
                language.sizes[item.large],
                language.fills[item.fill],
                language.shapes[item.shape],
                language.places[item.cell],
            )
            assert all(word in thing for word in words)


def test_a_scene_holds_up_to_four_objects_that_can_be_told_apart() -> None:
    sizes = Counter()
    for scene in scenes(200):
        kinds = {(item.shape, item.fill) for item in scene.objects}
        cells = [item.cell for item in scene.objects]
        assert len(kinds) == len(scene.objects)
        assert cells == sorted(set(cells))
        sizes[len(cells)] += 1
    assert set(sizes) == {1, 2, 3, 4}


def test_no_answer_can_be_guessed_from_the_kind_of_question_alone() -> None:
    rng = random.Random(2)
    for kind in QUESTION_TYPES:
        answers = Counter(ask(scene, kind, ENGLISH, rng).answer for scene in scenes(300))
        assert answers.most_common(1)[0][1] < 0.65 * 300


def test_an_object_is_drawn_in_its_colour_where_it_is_said_to_be() -> None:
    """Without wander, clutter or neighbours the middle of its cell shows the object, and no other does."""
    for scene in scenes(40):
        for item in scene.objects:
            alone = Scene((item,), scene.seed, Difficulty(clutter=0, jitter=0))
            empty = draw_scene(Scene((), scene.seed, alone.difficulty), "shapes")
            image = draw_scene(alone, "shapes")
            for cell in range(GRID**2):
                row, column = divmod(cell, GRID)
                middle = tuple(int((index + 0.5) * IMAGE_SIZE / GRID) for index in (column, row))
                difference = sum(
                    abs(a - b) for a, b in zip(image.getpixel(middle), empty.getpixel(middle), strict=True)
                )
                assert (difference > 60) == (cell == item.cell)


def test_the_same_scene_gives_the_same_pixels_and_each_look_its_own() -> None:
    scene = next(scenes(1))
    pixels = {look: draw_scene(scene, look).tobytes() for look in ("shapes", "blueprint")}
    assert pixels == {look: draw_scene(scene, look).tobytes() for look in ("shapes", "blueprint")}
    assert pixels["shapes"] != pixels["blueprint"]
    red, _, blue = (sum(pixels["blueprint"][channel::3]) for channel in range(3))
    assert blue > 1.5 * red


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_name_and_a_seed_give_the_same_files_and_another_seed_other_ones(name: str, tmp_path: Path) -> None:
    first = files(make_sample(name, tmp_path / "first", images=4))
    assert files(make_sample(name, tmp_path / "second", images=4)) == first
    other = files(make_sample(name, tmp_path / "other", images=4, seed=99))
    assert other.keys() == first.keys()
    assert other["metadata.jsonl"] != first["metadata.jsonl"]
    assert len(first) == 5


def test_samples_of_one_look_share_no_scene() -> None:
    """What the base learned from is not what an adapter is tested on."""
    assert len({sample.seed for sample in SAMPLES.values()}) == len(SAMPLES)


@pytest.fixture(scope="module")
def vietnamese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample("shapes-vi", tmp_path_factory.mktemp("samples") / "shapes-vi")


def test_the_vietnamese_sample_has_2000_examples_of_480_small_images(vietnamese: Path) -> None:
    lines = (vietnamese / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    images = sorted((vietnamese / "images").iterdir())
    assert len(rows) == 2000
    assert {row["file_name"] for row in rows} == {f"images/{image.name}" for image in images}
    assert len(images) == 480
    for image in images:
        with Image.open(image) as opened:
            assert (opened.format, max(opened.size) <= 96) == ("PNG", True)
    assert sum(image.stat().st_size for image in images) < 20_000_000
    assert Counter("caption" if "text" in row else "question" for row in rows)["caption"] == 80
    asked = Counter((row["file_name"], row.get("question")) for row in rows)
    assert set(asked.values()) == {1}


def test_every_vietnamese_text_is_nfc_and_keeps_its_marks(vietnamese: Path) -> None:
    text = (vietnamese / "metadata.jsonl").read_text(encoding="utf-8")
    assert text == unicodedata.normalize("NFC", text)
    words = set(text.replace('"', " ").replace("?", " ").split())
    assert {"màu", "hình", "ở", "bên", "trái", "phía", "góc", "đỏ", "tím", "chữ", "thập"} <= words
    assert "?" in text


def test_a_sample_that_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    folder = make_sample("shapes", tmp_path / "shapes", images=2)
    (folder / "metadata.jsonl").write_text("mine")
    assert (make_sample("shapes", folder, images=2) / "metadata.jsonl").read_text() == "mine"
