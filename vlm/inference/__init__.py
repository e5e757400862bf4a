"""Ask a base model and its adapters: one base in memory, answers streamed, several in one batch."""

from vlm.inference.answering import Answer
from vlm.inference.engine import Engine
from vlm.inference.loaded_base import LoadReport
