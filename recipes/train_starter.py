"""How the starter was made, one command: `python -m recipes.train_starter --output vlm/starter`.

A small composed model (ViT, connector, MBart) learns from scratch to answer English questions about drawn
scenes and to describe them in English and Vietnamese. Some of its batches are text practice without images:
translate a question, an answer or a description, either way, or repeat it, so that it knows Vietnamese as a
language. It is never asked a Vietnamese question about an image, and never sees a blueprint: those are left
for adapters.

An auxiliary loss lets each image token name what lies in its cell of the image; on answers alone the vision
tower stays blind for a long time.
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import MBartConfig, PreTrainedTokenizerFast, ViTConfig, ViTImageProcessor

from training.data.synthetic.phrases import (
    BLUEPRINT,
    ENGLISH,
    QUESTION_TYPES,
    VIETNAMESE,
    Phrasing,
    ask,
    caption,
)
from training.data.synthetic.scenes import GRID, IMAGE_SIZE, SHAPES, Difficulty, Scene, draw_scene, make_scene
from vlm.composed import ComposedConfig, ComposedForConditionalGeneration, ComposedProcessor
from vlm.meta_model import COUNTED, STARTER_COUNTS_FILE, build_counts

logger = logging.getLogger(__name__)

WIDTH = 144
PATCH_SIZE = 16
SCALE_FACTOR = 2
VOCABULARY = 1024
MAX_POSITIONS = 256
SCENES_A_BATCH = 32
QUESTIONS_A_SCENE = 4
TEXTS_A_BATCH = 96
TEXT_FIRST = 900
"""Batches of which a third is text practice, after that an eighth: the language is learned by then."""
MAX_LEARNING_RATE = 1.2e-3
ENOUGH = 0.97
"""Training ends at the evaluation where this share of held-out English questions is answered right."""

INITIAL_STD = WIDTH**-0.5  # the usual 0.02 is for widths near 1,000: attention hardly starts to learn from it
IMAGE_TOKEN_SCALE = 0.25
"""The connector's last gain at first: image tokens are then three times as long as a position's embedding."""

TRANSLATE_TO_VIETNAMESE = "translate to Vietnamese: "
TRANSLATE_TO_ENGLISH = "translate to English: "
REPEAT = "repeat: "


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts to learn from; `scenes` are pool indices, one per `len(questions) / len(scenes)` questions."""

    questions: list[str]
    answers: list[str]
    scenes: list[int]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over everything the samples' languages can say: any other text still has tokens."""
    rng = random.Random(0)
    corpus = [text for _ in range(6000) for text in _sentences(rng)]
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(corpus, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=MAX_POSITIONS - GRID**2,
        clean_up_tokenization_spaces=False,
    )


def _sentences(rng: random.Random) -> list[str]:
    scene, kind = make_scene(rng, Difficulty()), rng.choice(QUESTION_TYPES)
    languages = (ENGLISH, VIETNAMESE, BLUEPRINT)
    asked = [ask(scene, kind, language, rng) for language in languages]
    return [
        *(text for item in asked for text in (item.question, item.answer, item.question.capitalize())),
        *(caption(scene, language) for language in languages),
        *(language.describe for language in languages),
        *(TRANSLATE_TO_ENGLISH, TRANSLATE_TO_VIETNAMESE, REPEAT),
    ]


def build_processor() -> ComposedProcessor:
    half = [0.5, 0.5, 0.5]
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = ViTImageProcessor(size=size, image_mean=half, image_std=half)
    return ComposedProcessor(image_processor=image_processor, tokenizer=build_tokenizer())


def build_model() -> ComposedForConditionalGeneration:
    """The starter's architecture with random weights: 2.7 million parameters."""
    vision = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=3 * WIDTH,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    text = MBartConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=3 * WIDTH,
        decoder_ffn_dim=3 * WIDTH,
        max_position_embeddings=MAX_POSITIONS,
        init_std=INITIAL_STD,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    config = ComposedConfig(vision_config=vision, text_config=text, connector_scale_factor=SCALE_FACTOR)
    model = ComposedForConditionalGeneration(config)
    nn.init.constant_(model.connector.out_norm.weight, IMAGE_TOKEN_SCALE)
    model.generation_config.update(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, max_new_tokens=64
    )
    return model


class RegionNames(nn.Module):
    """The auxiliary loss: each image token names what lies in its grid cell, in the text model's own words.

    A class is the embedding of its word, so that an image token comes to lie near the words for it, and a
    question finds it by them. What is not there (shape, fill, size of an empty cell) is a learned vector.
    """

    def __init__(self, processor: ComposedProcessor) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.randn(3, WIDTH) * INITIAL_STD)
        self.words = [
            [processor.tokenizer(word, add_special_tokens=False).input_ids for word in words]
            for words in (ENGLISH.shapes.values(), ENGLISH.fills, ENGLISH.sizes, ENGLISH.places)
        ]

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor, embeddings: nn.Module) -> torch.Tensor:
        """`tokens`: [B, cells, WIDTH], one for each cell; `targets`: [B, cells, 4], 0 for nothing."""
        tokens = nn.functional.layer_norm(tokens, (WIDTH,))  # else longer tokens would lower this loss
        losses = []
        for index, words in enumerate(self.words):
            named = [embeddings(torch.tensor(ids)).mean(0) for ids in words]
            classes = torch.stack([self.nothing[index], *named] if index < 3 else named)
            losses.append(
                nn.functional.cross_entropy((tokens @ classes.T).flatten(0, 1), targets[..., index].flatten())
            )
        return torch.stack(losses).sum()


def region_targets(scene: Scene) -> list[list[int]]:
    """For each cell [shape, fill, size, place]; the first three count from 1, with 0 for an empty cell."""
    cells = [[0, 0, 0, place] for place in range(GRID * GRID)]
    for item in scene.objects:
        cells[item.cell][:3] = [SHAPES.index(item.shape) + 1, item.fill + 1, int(item.large) + 1]
    return cells


def _draw(seed: int) -> tuple[Scene, np.ndarray]:
    scene = make_scene(random.Random(seed), Difficulty())
    return scene, np.asarray(draw_scene(scene, "shapes"))


def draw_pool(count: int, seed: int) -> tuple[list[Scene], torch.Tensor]:
    """`count` scenes and their images, [count, 3, H, W] uint8, drawn on all cores."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        drawn = pool.map(_draw, range(seed, seed + count), chunksize=500)
    images = torch.from_numpy(np.stack([image for _, image in drawn])).permute(0, 3, 1, 2).contiguous()
    return [scene for scene, _ in drawn], images


def batches(scenes: list[Scene], seed: int) -> Iterator[Batch]:
    """An endless mixture: questions about images, descriptions of images, and text practice."""
    rng = random.Random(seed)
    for number in itertools.count():
        kind = rng.random()
        if kind < (0.33 if number < TEXT_FIRST else 0.12):
            pairs = [_practice(rng) for _ in range(TEXTS_A_BATCH)]
            yield Batch([q for q, _ in pairs], [a for _, a in pairs], [])
            continue
        chosen = rng.sample(range(len(scenes)), SCENES_A_BATCH)
        if kind > 0.88:
            language = rng.choice((ENGLISH, VIETNAMESE))
            prompts = [
                language.describe if language is VIETNAMESE or rng.random() < 0.5 else "" for _ in chosen
            ]
            yield Batch(prompts, [caption(scenes[index], language) for index in chosen], chosen)
            continue
        asked = [
            ask(scenes[index], rng.choice(QUESTION_TYPES), ENGLISH, rng)
            for index in chosen
            for _ in range(QUESTIONS_A_SCENE)
        ]
        yield Batch(
            [_as_typed(item.question, rng) for item in asked], [item.answer for item in asked], chosen
        )


def _as_typed(question: str, rng: random.Random) -> str:
    """People write a capital letter or forget the question mark."""
    question = question.capitalize() if rng.random() < 0.1 else question
    return question.removesuffix("?") if rng.random() < 0.1 else question


def _practice(rng: random.Random) -> tuple[str, str]:
    """A text task without an image: translate or repeat a question, its answer or an object's description."""
    scene, kind, seed = make_scene(rng, Difficulty(max_objects=2)), rng.choice(QUESTION_TYPES), rng.random()
    part = rng.choice(("question", "answer", "caption"))

    def say(language: Phrasing) -> str:
        if part == "caption":
            return caption(scene, language)
        return getattr(ask(scene, kind, language, random.Random(seed)), part)

    task = rng.random()
    if task < 0.35:
        return TRANSLATE_TO_VIETNAMESE + say(ENGLISH), say(VIETNAMESE)
    if task < 0.7:
        return TRANSLATE_TO_ENGLISH + say(VIETNAMESE), say(ENGLISH)
    text = say(rng.choice((VIETNAMESE, BLUEPRINT)))
    return REPEAT + text, text


def answer_loss(
    model: ComposedForConditionalGeneration,
    names: RegionNames,
    processor: ComposedProcessor,
    batch: Batch,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss on answer tokens, and the auxiliary one (0 without images). Each image is encoded once."""
    tokenizer = processor.tokenizer
    inputs = dict(tokenizer(batch.questions, padding=True, return_tensors="pt", return_token_type_ids=False))
    answers = tokenizer(batch.answers, padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, -100)
    region_loss = torch.zeros(())
    if batch.scenes:
        features = model.get_image_features(images[batch.scenes].float() / 127.5 - 1)
        region_loss = names(features.pooler_output, targets[batch.scenes], model.get_input_embeddings())
        repeats = len(batch.questions) // len(batch.scenes)
        features["pooler_output"] = features.pooler_output.repeat_interleave(repeats, dim=0)
        inputs["mm_encoder_outputs"] = {"image": features}
    return model(**inputs, labels=labels).loss, region_loss


@torch.inference_mode()
def accuracy(
    model: ComposedForConditionalGeneration,
    processor: ComposedProcessor,
    language: Phrasing,
    count: int,
    look: str,
) -> float:
    """The share of `count` held-out questions that are answered word for word."""
    rng = random.Random(999)
    scenes = [make_scene(rng, Difficulty()) for _ in range(count)]
    asked = [ask(scene, rng.choice(QUESTION_TYPES), language, rng) for scene in scenes]
    right = 0
    for start in range(0, count, 100):
        part = slice(start, start + 100)
        inputs = processor(
            images=[draw_scene(scene, look) for scene in scenes[part]],
            text=[item.question for item in asked[part]],
            padding=True,
            return_tensors="pt",
        )
        answers = processor.tokenizer.batch_decode(
            model.generate(**inputs, max_new_tokens=16), skip_special_tokens=True
        )
        right += sum(a.strip() == item.answer for a, item in zip(answers, asked[part], strict=True))
    return right / count


def train(output: Path, steps: int, pool_size: int, seed: int) -> None:
    """Train from scratch until `ENOUGH`, or for `steps` steps, save to `output` on the way, log the curve."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    processor = build_processor()
    model, names = build_model(), RegionNames(processor)
    logger.info("%d parameters, %d tokens", model.num_parameters(), len(processor.tokenizer))
    scenes, images = draw_pool(pool_size, seed=1_000_000)
    targets = torch.tensor([region_targets(scene) for scene in scenes])
    logger.info("drew %d scenes in %.0f s", pool_size, time.perf_counter() - started)
    parameters = [*model.parameters(), *names.parameters()]
    optimizer = torch.optim.AdamW(parameters, MAX_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LEARNING_RATE, steps, pct_start=0.04)
    totals = {"image": [0.0, 0], "text": [0.0, 0], "regions": [0.0, 0]}
    for step, batch in zip(range(1, steps + 1), batches(scenes, seed), strict=False):
        loss, region_loss = answer_loss(model, names, processor, batch, images, targets)
        (loss + 0.5 * region_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        _add(totals, "image" if batch.scenes else "text", loss.item())
        if batch.scenes:
            _add(totals, "regions", region_loss.item())
        if step % 100 == 0:
            _log(step, started, totals)
        if step % 1000 == 0 or step == steps:
            save(model, processor, output)
            model.eval()
            shown = {
                "shapes": accuracy(model, processor, ENGLISH, 300, "shapes"),
                "shapes-vi": accuracy(model, processor, VIETNAMESE, 300, "shapes"),
                "blueprints": accuracy(model, processor, BLUEPRINT, 300, "blueprint"),
            }
            model.train()
            logger.info(json.dumps({"step": step, "exact_match": shown}))
            if shown["shapes"] >= ENOUGH:
                return


def save(model: ComposedForConditionalGeneration, processor: ComposedProcessor, output: Path) -> None:
    """Everything that the starter's folder holds, its counts included: the page's first paint shows them."""
    model.save_pretrained(output)
    processor.save_pretrained(output)
    counts = {name: build_counts(str(output), adapter).as_dict() for name, adapter in COUNTED.items()}
    (output / STARTER_COUNTS_FILE.name).write_text(json.dumps(counts, indent=1) + "\n", "utf-8")


def _add(totals: dict[str, list], name: str, value: float) -> None:
    totals[name][0] += value
    totals[name][1] += 1


def _log(step: int, started: float, totals: dict[str, list]) -> None:
    means = {name: round(total / max(count, 1), 4) for name, (total, count) in totals.items()}
    totals.update({name: [0.0, 0] for name in totals})
    logger.info(json.dumps({"step": step, "elapsed_s": round(time.perf_counter() - started), "loss": means}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "vlm" / "starter")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--pool", type=int, default=20_000, help="scenes to draw; each is asked about many times"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(2)
    train(arguments.output, arguments.steps, arguments.pool, arguments.seed)


if __name__ == "__main__":
    main()
