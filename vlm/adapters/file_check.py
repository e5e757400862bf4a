"""Reads a saved adapter as any other process would: its files, the tensors' names and shapes, all finite.

    python -P file_check.py FOLDER < expected.json

Run as a file, with numpy alone: what a worker sees of what it has just written may be its own memory, and
torch would take longer to import than the adapter to read. `expected.json` has {name: shape}; what is wrong
is one line on stdout, and the exit code is 1 then.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# safetensors' names of number formats. numpy has no bf16: of its 16 bits eight are the exponent.
FORMATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
BF16_EXPONENT = 0x7F80
# Numbers that are looked at together: an adapter may be larger than what is free beside the model.
AT_ONCE = 2**22


def problem_with(folder: Path, expected: Mapping[str, Sequence[int]]) -> str | None:
    """Returns what is wrong with the adapter in a folder; None if nothing is."""
    try:
        if not isinstance(json.loads((folder / CONFIG_FILE).read_text("utf-8")), dict):
            return f"{CONFIG_FILE} holds no settings"
        with (folder / WEIGHTS_FILE).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            begin = file.tell()
            for name in header.keys() ^ expected.keys():
                return f"{name} is {'not expected' if name in header else 'missing'}"
            for name, entry in header.items():
                if entry["shape"] != list(expected[name]):
                    return f"{name} has the shape {entry['shape']}, not {list(expected[name])}"
                file.seek(begin + entry["data_offsets"][0])
                left = prod(entry["shape"])
                while left:
                    numbers = np.fromfile(file, FORMATS[entry["dtype"]], min(left, AT_ONCE))
                    if not numbers.size:
                        return f"{WEIGHTS_FILE} ends within {name}"
                    if entry["dtype"] == "BF16":
                        finite = (numbers & BF16_EXPONENT) != BF16_EXPONENT
                    else:
                        finite = np.isfinite(numbers)
                    if not finite.all():
                        return f"{name} holds numbers that are not finite"
                    left -= numbers.size
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    if problem := problem_with(Path(sys.argv[1]), json.load(sys.stdin)):
        sys.stdout.write(problem)
        sys.exit(1)
