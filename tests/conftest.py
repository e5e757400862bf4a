"""What every test shares: an environment without a network, one real Chromium, a tiny model and its data."""

import os

# Before gradio and huggingface_hub are imported, which read them once; child processes inherit them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # as many tests at a time as there are cores: a second thread slows all
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from support import durations, machine_names, raised_codes
from support.browser import REMEDY, find_browser
from support.canaries import Server, serving_nobody
from support.tiny import NUMBERS, PICTURES, QUESTION, tiny_tokenizer
from training import runs
from training.config import TrainingConfig, build
from training.runs import Run
from vlm.settings import AdapterSettings

collect_ignore = machine_names.left_out(Path(__file__).parent)


def pytest_report_header() -> str | None:
    return f"left out, as this system lacks what they import: {collect_ignore}" if collect_ignore else None


def pytest_collection_finish() -> None:
    # Constants of modules that the collection imported: no test has made a sentence of them yet.
    raised_codes.made.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, the files that take longest start first; a plain run keeps pytest's order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Needs --no-loadscope-reorder: xdist would sort files by their number of tests, and so begin the
        # browser's few long ones last.
        items[:] = durations.longest_first(items, json.loads(durations.TABLE.read_text("utf-8")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a browser and child processes are waited for a quarter of the time."""
    return (os.cpu_count() or 1) + 1


def pytest_configure() -> None:
    raised_codes.watch()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    raised_codes.files.add(report.nodeid.partition("::")[0])


def pytest_runtest_setup() -> None:
    raised_codes.of_this_test.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker of xdist has made is its own until it ends."""
    raised_codes.made |= getattr(node, "workeroutput", {}).get("codes", {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        session.config.workeroutput["codes"] = dict.fromkeys(raised_codes.made, "")
        return
    raised_codes.collect(raised_codes.made)
    whole = raised_codes.is_whole(session.config)
    if whole and raised_codes.unexplained(raised_codes.made) and not session.testsfailed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    whole = raised_codes.is_whole(terminalreporter.config)
    if whole and (codes := raised_codes.unexplained(raised_codes.made)):
        terminalreporter.section(
            "codes that no test raises, and tests/support/unraised_codes.yaml excuses not"
        )
        terminalreporter.write_line(" ".join(codes))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real Chromium. Without one the test is skipped, and fails where CI is set.

    For a module, not the session: while Playwright's synchronous API is open, `asyncio.run` raises here.
    """
    path = find_browser()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(REMEDY)
    with sync_playwright() as playwright:
        # --no-sandbox: Chromium refuses its own sandbox to root, which is who runs the tests in a container.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def canary_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that nobody may ask, beside a Hub that may be: this process is online."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo
    with serving_nobody() as server:

        def connecting(self: socket.socket, address: Any) -> None:
            server.connected.append(address)
            connect(self, address)

        def looking_up(host: Any, *rest: Any, **how: Any) -> Any:
            server.connected.append(host)
            return lookup(host, *rest, **how)

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(socket.socket, "connect", connecting)
        monkeypatch.setattr(socket, "getaddrinfo", looking_up)
        yield server


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model folder as a user has one: a composed model of 0.1 M random weights, and its processor.

    The weights are ten times wider than usual: with frozen, nearly equal embeddings no adapter learns much.
    """
    import torch
    from transformers import MBartConfig, ViTConfig, ViTImageProcessor

    from vlm.composed import ComposedConfig, ComposedForConditionalGeneration, ComposedProcessor

    tokenizer = tiny_tokenizer()
    half, size = [0.5, 0.5, 0.5], {"height": 48, "width": 48}
    image_processor = ViTImageProcessor(size=size, image_mean=half, image_std=half)
    vision = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=48,
        patch_size=12,
        initializer_range=0.2,
    )
    text = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        init_std=0.2,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ComposedForConditionalGeneration(
            ComposedConfig(vision_config=vision, text_config=text, connector_scale_factor=2)
        )
    model.generation_config.update(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    model.save_pretrained(folder)
    ComposedProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of four rows: one picture of each colour, with a question and its answer."""
    folder = tmp_path_factory.mktemp("datasets") / "pictures"
    folder.mkdir()
    rows = []
    for colour, answer in PICTURES.items():
        Image.new("RGB", (64, 64), colour).save(folder / f"{colour}.png")
        rows.append({"file_name": f"{colour}.png", "question": QUESTION, "answer": answer})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small edition of the sample shapes-vi: 12 images of one object, with questions and captions."""
    from training.data.synthetic.samples import make_sample
    from training.data.synthetic.scenes import Difficulty

    folder = tmp_path_factory.mktemp("datasets") / "scenes"
    return make_sample("shapes-vi", folder, images=12, difficulty=Difficulty(max_objects=1))


@pytest.fixture(scope="session")
def tiny_settings(tiny_base: Path, scenes: Path) -> dict[str, Any]:
    """Settings of a run of the tiny model that takes a second; a workspace is still to be given."""
    return {
        **NUMBERS,
        "model": str(tiny_base),
        "dataset": str(scenes),
        "name": "demo",
        "device": "cpu",
        "batch_size": 4,
        "max_steps": 6,
        "logging_steps": 1,
        "held_out": 0.25,
        "eval_examples": 6,
        "max_new_tokens": 8,
        # Photographs tell nothing of a tiny model, and take as long as the rest of its run.
        "forgetting_test": False,
        # Two runs on a busy machine may find another number fastest each, and differ in their last bits.
        "threads": 1,
    }


@pytest.fixture
def tiny_config(tiny_settings: dict[str, Any], tmp_path: Path) -> Callable[..., TrainingConfig]:
    """Makes the settings of a tiny run, in a workspace of its own; `values` change them."""
    return lambda **values: build(tiny_settings | {"workspace": tmp_path} | values)


@pytest.fixture(scope="session")
def taught(tiny_settings: dict[str, Any], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run: a worker in this process taught the tiny model the four pictures."""
    from training.loop import worker

    workspace = tmp_path_factory.mktemp("taught")
    lesson = {
        "dataset": str(pictures),
        "held_out": 0,
        "max_steps": 80,
        "learning_rate": 2e-2,
        "save_steps": 40,
    }
    run = runs.prepare(build(tiny_settings | lesson | {"workspace": workspace}))
    assert worker.main(run) == worker.DONE
    return run


@pytest.fixture(scope="session")
def foreign_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of another base: a text model half as wide as the tiny one's."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    import vlm.composed  # noqa: F401
    from vlm import adapters

    config = AutoConfig.from_pretrained(tiny_base)
    config.text_config.d_model = 16
    model = adapters.attach(AutoModelForImageTextToText.from_config(config), AdapterSettings(), "narrow")
    folder = tmp_path_factory.mktemp("foreign") / "narrow-adapter"
    adapters.save(model, folder)
    return folder
