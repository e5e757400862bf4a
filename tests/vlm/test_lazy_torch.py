"""The first import of torch and transformers, while several visitors' threads want it at once."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

VISITORS = """
import sys, threading, time
from training.config import build
from ui.inference import engine
from ui.adapters import architecture_of
from vlm.meta_model import tower_counts
from training.memory import auto
from training.memory.estimate import estimate
from vlm.catalog import ModelAndData
from vlm.settings import ModelSettings

under_way, troubles = threading.Event(), []

class Slow:
    "In the middle of transformers' first import, the other visitors come."
    def find_spec(self, name, path=None, target=None):
        if name == "transformers.dependency_versions_check":
            under_way.set()
            time.sleep(2)

sys.meta_path.insert(0, Slow())
known = ModelAndData("starter", 3.0, "seq2seq", 2_000)

def visit(want):
    try:
        want()
    except Exception as trouble:
        troubles.append(repr(trouble))

first = threading.Thread(target=visit, args=(engine,))
first.start()
assert under_way.wait(60)
others = [
    threading.Thread(target=visit, args=(want,))
    for want in (
        engine,
        lambda: tower_counts(build({"text_lora_r": 4})),
        lambda: estimate(auto.choose(build({"batch_size": 8}), known, 0).config),
        lambda: architecture_of(ModelSettings(model="starter")),
    )
]
for other in others:
    other.start()
for visitor in (first, *others):
    visitor.join()
assert not troubles, troubles
"""


@pytest.mark.slow
def test_visitors_who_come_while_transformers_is_imported_wait_for_it():
    told = subprocess.run([sys.executable, "-c", VISITORS], cwd=PROJECT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
