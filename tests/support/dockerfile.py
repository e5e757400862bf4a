"""The Dockerfile, read: its instructions in their order, and its HEALTHCHECK, carried out."""

import json
import os
import re
import subprocess
import sys

from support.source_tree import ROOT

# (instruction, the rest); a line that is continued is one, and a comment within is none.
INSTRUCTIONS = [
    (line.split()[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"(?m)^#.*\n|\\\n", "", (ROOT / "Dockerfile").read_text("utf-8")).splitlines()
    if line
]


def rest_of(word: str) -> list[str]:
    return [rest for each, rest in INSTRUCTIONS if each == word]


def place_of(word: str, part: str) -> int:
    [place] = [place for place, (each, rest) in enumerate(INSTRUCTIONS) if each == word and part in rest]
    return place


def healthy(port: int) -> bool:
    """What the image's HEALTHCHECK finds at this port, by this Python."""
    python, *words = json.loads(rest_of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert python == "python"
    # A proxy that the environment names is none between the two.
    environment = os.environ | {"PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return (
        subprocess.run([sys.executable, *words], env=environment, stderr=subprocess.DEVNULL).returncode == 0
    )
