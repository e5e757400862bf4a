"""The check against a model: what its processor and tokenizer can't take, and how long every example is."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from support.families import FAMILIES, OTHER_TEXT_MODELS
from training.config import build
from training.data.dataset import Dataset
from training.data.images import ImageFacts
from training.data.open import open_dataset
from training.data.validate import model_check
from training.data.validate.dataset_check import Report, check_dataset
from training.data.validate.model_check import check_with_model
from training.data.validate.token_counter import token_counter
from training.data.validate.token_lengths import TokenLengths
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message

SIZES = ((40, 40), (64, 32), (30, 90), (120, 80), (200, 50))

Built = Callable[[str], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Built:
    """The folder of a tiny model of a family, made once."""
    made: dict[str, Path] = {"composed": tiny_base}

    def build_once(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("family") / "base"
            {**FAMILIES, **OTHER_TEXT_MODELS}[name](made[name])
        return made[name]

    return build_once


def picture(folder: Path, size: tuple[int, int] = (40, 40)) -> str:
    name = f"{size[0]}x{size[1]}.png"
    if not (folder / name).exists():
        Image.new("RGB", size, "red").save(folder / name)
    return name


def row(folder: Path, answer: str = "red", question: str = "colour?", **changes: object) -> dict[str, object]:
    return {"image": picture(folder), "question": question, "answer": answer} | changes


def checked(folder: Path, model: Path, *rows: dict[str, object], **settings: object) -> Report:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = check_dataset(open_dataset(str(folder), folder / "workspace"))
    assert report.faults == []
    config = build(
        {"model": str(model), "dataset": str(folder), "workspace": folder / "workspace"} | settings
    )
    return check_with_model(report, token_counter(config))


def told(report: Report) -> str:
    return "\n".join(map(str, report.findings))


EVERY_STYLE = [
    *("composed", "qwen2_vl", "idefics3", "llava_next", "llava_onevision", "gemma3", "mllama"),
    *("paligemma", "blip-2", "instructblip", "git", "florence2", "vision-encoder-decoder"),
]


@pytest.mark.parametrize("family", EVERY_STYLE)
def test_lengths_are_within_a_token_a_turn_of_what_the_processor_makes(
    built: Built, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, rows = random.Random(0), []
    for _ in range(16):
        question = " ".join(rng.choices(["what", "colour", "is", "đỏ?", "1 234"], k=rng.randint(1, 12)))
        answer = " ".join(rng.choices(["red", "blue", "vuông"], k=rng.randint(1, 8)))
        rows.append(row(tmp_path, answer, question, image=picture(tmp_path, rng.choice(SIZES))))
    if family in ("qwen2_vl", "idefics3", "llava_onevision"):
        turns = [
            {"role": role, "content": text}
            for role, text in zip(
                ("user", "assistant") * 2, ("<image>a<image>b?", "c", "d", "e"), strict=True
            )
        ]
        rows.append({"images": [picture(tmp_path, size) for size in SIZES[:2]], "messages": turns})
    monkeypatch.setattr(model_check, "SPOT_CHECKS", 0)
    monkeypatch.setattr(model_check, "MOST_NEAR", 0)
    estimated = checked(tmp_path, built(family), *rows).lengths
    monkeypatch.setattr(model_check, "SPOT_CHECKS", len(rows))
    exact = checked(tmp_path, built(family), *rows).lengths
    assert (estimated.measured, exact.measured, len(exact.tokens)) == (0, len(rows), len(rows))
    # Four turns at most; where a template puts a space before a text, the two may be one token or not.
    assert [a for a, b in zip(estimated.tokens, exact.tokens, strict=True) if abs(a - b) > 4] == []
    assert sum(abs(a - b) > 2 for a, b in zip(estimated.tokens, exact.tokens, strict=True)) <= 1
    assert len(set(exact.tokens)) > 1


def test_row_33_images_that_a_model_cant_take_are_found_by_row(built: Built, tmp_path: Path) -> None:
    rows = [row(tmp_path), row(tmp_path, image=[picture(tmp_path), picture(tmp_path, (64, 32))] * 5)]
    rows.append({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})
    report = checked(tmp_path, built("composed"), *rows)
    assert "rows.jsonl:2: the row has 10 images: this model takes exactly one ->" in told(report)
    assert "rows.jsonl:3: the row has 0 images" in told(report)
    assert len(report.cleaned().examples) == 1
    assert "images" not in told(checked(tmp_path, built("qwen2_vl"), *rows))


def test_rows_37_and_38_strange_sizes_are_refused_by_the_families_that_fail_on_them(
    built: Built, tmp_path: Path
) -> None:
    rows = [row(tmp_path, image=picture(tmp_path, size)) for size in ((40, 40), (3000, 4), (1, 1))]
    refused = [f for f in checked(tmp_path, built("qwen2_vl"), *rows).findings if not f.warning]
    assert [finding.place for finding in refused] == ["rows.jsonl:2"]
    assert "'3000x4.png' has 3000 x 4 pixels: this model's processor refuses it" in refused[0].reason
    assert "aspect ratio must be smaller than 200" in refused[0].reason
    assert checked(tmp_path, built("idefics3"), *rows).faults == []


def test_row_57_too_long_a_row_is_told_with_what_it_needs(built: Built, tmp_path: Path) -> None:
    long = "red blue " * 300
    report = checked(tmp_path, built("qwen2_vl"), row(tmp_path), row(tmp_path, long), max_length=300)
    (finding,) = report.faults
    assert finding.place == "rows.jsonl:2"
    needed = int(finding.reason.split()[3].replace(",", ""))
    assert f"the row has {needed:,} tokens, and 300 is the most" in finding.reason
    assert report.lengths.lost == 1
    assert report.lengths.longest == needed
    safe = report.lengths.safe_max_length
    assert f"--max_length {safe}" in finding.remedy
    again = checked(tmp_path, built("qwen2_vl"), row(tmp_path), row(tmp_path, long), max_length=safe)
    assert (again.faults, again.lengths.lost) == ([], 0)


def test_row_57_what_no_max_length_can_mend_is_said(built: Built, tmp_path: Path) -> None:
    report = checked(tmp_path, built("composed"), row(tmp_path, "xyzt " * 60), row(tmp_path))
    (finding,) = report.faults
    assert finding.remedy == "Shorten it: this model reads 96 tokens at most"
    assert (report.lengths.limit, report.lengths.safe_max_length) == (96, 64)


def test_row_58_image_tokens_that_would_be_cut_off_are_told_apart(built: Built, tmp_path: Path) -> None:
    wide = picture(tmp_path, (400, 300))
    report = checked(tmp_path, built("qwen2_vl"), row(tmp_path, image=wide), max_length=24)
    (finding,) = report.faults
    assert "1 image and the template take" in finding.reason
    assert "image tokens would be cut off" in finding.reason
    assert finding.remedy.startswith("Give --max_length")  # no image has so few pixels that it would fit


def test_of_what_is_too_long_for_its_images_fewer_pixels_cut_nothing(built: Built, tmp_path: Path) -> None:
    rows = [row(tmp_path), row(tmp_path, image=[picture(tmp_path, (400, 300))] * 8)]
    rows += [row(tmp_path, "red blue " * 300)]
    report = checked(tmp_path, built("qwen2_vl"), *rows, max_length=150)
    shown, said = report.faults
    pixels = shown.remedy.values["advice"].values["pixels"]
    assert shown.remedy == f"Give --image_max_pixels {pixels}: nothing is cut"
    assert said.remedy.startswith("Give --max_length")
    again = checked(tmp_path, built("qwen2_vl"), *rows[:2], max_length=150, image_max_pixels=pixels)
    assert (again.faults, again.lengths.lost) == ([], 0)
    # A model that sees images in one size has no such remedy.
    (fixed,) = checked(tmp_path, built("llava_next"), rows[1], max_length=150).faults
    assert fixed.remedy.startswith("Give --max_length")


CONTROL = [
    (
        "59",
        "qwen2_vl",
        {"question": "what is <|image_pad|>?"},
        "turn 1 holds '<|image_pad|>', a control token",
    ),
    (
        "61",
        "qwen2_vl",
        {"question": "hi<|im_end|><|im_start|>assistant"},
        "turn 1 holds '<|im_end|>', '<|im_start|>', a control",
    ),
    (
        "62",
        "qwen2_vl",
        {"answer": "red<|im_end|> blue"},
        "turn 2 holds '<|im_end|>', which ends this model's",
    ),
    ("62", "composed", {"answer": "red</s>"}, "turn 2 holds '</s>', which ends this model's answers"),
]


@pytest.mark.parametrize(("number", "family", "changes", "reason"), CONTROL)
def test_rows_59_to_63_control_tokens_that_somebody_typed_are_found(
    built: Built, tmp_path: Path, number: str, family: str, changes: dict, reason: str
) -> None:
    report = checked(tmp_path, built(family), row(tmp_path), row(tmp_path, **changes))
    (finding,) = report.faults
    assert finding.place == "rows.jsonl:2"
    assert reason in finding.reason
    assert "Remove it" in finding.remedy


def test_text_that_only_looks_like_a_token_is_no_control_token(built: Built, tmp_path: Path) -> None:
    rows = [row(tmp_path, "a < b > c, <b>bold</b>", "is |im_end| or <|im_end| one?")]
    assert checked(tmp_path, built("qwen2_vl"), *rows).faults == []


def test_row_69_an_answer_that_comes_to_nothing_is_found(built: Built, tmp_path: Path) -> None:
    bert = built("vision-encoder-decoder with BERT")
    report = checked(tmp_path, bert, row(tmp_path), row(tmp_path, "\u200b\u200d"), row(tmp_path, "☃"))
    (fault,) = report.faults
    assert fault.place == "rows.jsonl:2"
    assert "nothing would be trained on" in fault.reason
    warned = [finding for finding in report.findings if finding.warning]
    assert "rows.jsonl:3: turn 2 has characters that this model's tokenizer doesn't know" in told(report)
    # The two are about one picture.
    assert [found.code for found in warned if not found.code.startswith("none-held-out")] == [
        "unknown-characters"
    ]


def test_a_conversation_that_the_template_does_not_take_is_found(built: Built, tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": "red"},
    ]
    talk = {"image": picture(tmp_path), "messages": turns}
    assert checked(tmp_path, built("qwen2_vl"), row(tmp_path), talk).faults == []
    model = built("qwen2_vl").parent / "without-system"
    if not model.exists():
        model.mkdir()
        for file in built("qwen2_vl").iterdir():
            if file.suffix != ".safetensors":
                (model / file.name).write_bytes(file.read_bytes())
        template = (model / "chat_template.jinja").read_text()
        refusal = (
            "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        )
        (model / "chat_template.jinja").write_text(refusal + template)
    (finding,) = checked(tmp_path, model, row(tmp_path), talk).faults
    assert finding.place == "rows.jsonl:2"
    assert "no system turns" in finding.reason


def test_an_answer_that_the_template_reads_as_its_own_is_found_wherever_it_stands(
    built: Built, tmp_path: Path
) -> None:
    rows = [row(tmp_path, f"red {number}") for number in range(100)]
    rows[70] = row(tmp_path, "<think>hm</think> red")
    (finding,) = checked(tmp_path, built("qwen3_5"), *rows).faults
    assert finding.place == "rows.jsonl:71"
    assert "does not repeat the answer" in finding.reason


@pytest.mark.slow
def test_a_large_dataset_of_many_sizes_is_measured_in_bounded_time(built: Built, tmp_path: Path) -> None:
    examples, facts = [], {}
    for number in range(20_000):
        image = tmp_path / f"{number}.png"
        facts[image] = ImageFacts(28 + number % 997, 28 + number % 641, 1, str(number).encode())
        turns = (Message("user", f"{IMAGE}what is {number}?"), Message("assistant", f"the number {number}"))
        examples.append(Example(str(number), (image,), turns))
    report = Report(Dataset("many", tmp_path, examples, [], ""), [], facts)
    config = build({"model": str(built("qwen2_vl")), "workspace": tmp_path})
    seen, began, counter = [], time.monotonic(), token_counter(config)
    found = check_with_model(report, counter, lambda what, done, total: seen.append((what, done, total)))
    assert time.monotonic() - began < 40
    assert len(found.lengths.tokens) == 20_000
    assert found.lengths.measured <= model_check.SPOT_CHECKS + 2 * model_check.MOST_NEAR
    assert seen[-1] == ("tokens", 20_000, 20_000)
    some = check_with_model(report, counter, cancelled=lambda: len(seen) > 1)
    assert some.lengths.tokens == ()


def test_a_model_that_cant_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        checked(tmp_path, tmp_path / "nowhere", row(tmp_path))


def test_a_histogram_has_round_bins_and_counts_everything() -> None:
    lengths = TokenLengths((3, 7, 12, 51, 51, 130), 100, 4096, 6)
    assert [(b.low, b.high, b.count) for b in lengths.bins(8)] == [
        *((0, 19, 3), (20, 39, 0), (40, 59, 2), (60, 79, 0), (80, 99, 0), (100, 119, 0), (120, 139, 1)),
    ]
    assert sum(b.count for b in lengths.bins()) == 6
    assert (lengths.lost, lengths.longest, lengths.median, lengths.safe_max_length) == (1, 130, 31, 192)
    assert TokenLengths((), 100, 100, 0).bins() == []


def test_a_safe_value_never_exceeds_the_model() -> None:
    lengths = TokenLengths((90, 500), 96, 96, 0)
    assert (lengths.safe_max_length, lengths.lost) == (96, 1)
