"""How much memory there is: of the machine, or of the container that limits it."""

from pathlib import Path

from training.memory.estimate import device_memory


def test_a_containers_limit_is_the_memory_there_is(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    assert device_memory("cpu", tmp_path) > 2**20
    (tmp_path / "memory.max").write_text("4000\n")
    assert device_memory("cpu", tmp_path) == 3300
    older = tmp_path / "memory"
    older.mkdir()
    (older / "memory.limit_in_bytes").write_text("9000\n")
    (older / "memory.usage_in_bytes").write_text("1000\n")
    (older / "memory.stat").write_text("total_inactive_file 0\n")
    assert device_memory("cpu", tmp_path) == 3300  # the tighter of two
    (tmp_path / "memory.max").unlink()
    assert device_memory("cpu", tmp_path) == 8000
    assert 0 < device_memory("cpu") < 2**50
