"""How printed commands are spelled."""

import pytest

from training.program import COMMAND_VARIABLE, command


def test_a_printed_command_is_spelled_as_the_program_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    assert command() == "python -m training"
    monkeypatch.setenv(COMMAND_VARIABLE, "lora-lens")
    assert command() == "lora-lens"
