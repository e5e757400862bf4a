"""How long each test file takes: the longest start first, and none is left to one worker at the end.

`durations.json` holds seconds by file, of a machine with two cores; only their order matters. A file that is
not in it counts as UNKNOWN_S, one that is gone is ignored. To measure again:

    PYTEST_ADDOPTS=--junitxml=report.xml make test SLOW=1
    .venv/bin/python tests/support/durations.py report.xml
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("durations.json")

# In the middle of the table: a new file is seldom one of the browser's, which take minutes.
UNKNOWN_S = 20.0


def longest_first(items: Sequence[pytest.Item], seconds: Mapping[str, float]) -> list[pytest.Item]:
    """The tests, those of the longest files first; the order within a file stays."""
    return sorted(items, key=lambda item: -seconds.get(item.nodeid.partition("::")[0], UNKNOWN_S))


def by_file(report: Path) -> dict[str, float]:
    """Seconds by test file, set-up included, from pytest's JUnit report."""
    seconds = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        seconds[case.get("classname", "").replace(".", "/") + ".py"] += float(case.get("time", 0))
    return {file: round(took, 1) for file, took in seconds.most_common() if (ROOT / file).is_file()}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(by_file(Path(sys.argv[1])), indent=1) + "\n")
