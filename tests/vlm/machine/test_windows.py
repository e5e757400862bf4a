"""The Windows branch, with POSIX's modules and names hidden (tests/support/windows_stand_in.py).

What runs on Windows alone is not run here: its file systems, `CreateFile` and `LockFile` themselves, consoles
and CTRL+BREAK, how it starts processes, junctions, code pages, and every library's own ways there. The
workflow .github/workflows/other-machines.yml is for that.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.source_tree import ROOT, module_name, sources

STAND_IN = ROOT / "tests" / "support" / "windows_stand_in.py"
# A supervisor's flags are Python's own.
PYTHON = """#!/bin/sh
flags=
while [ "$1" = -I ] || [ "$1" = -S ]; do flags="$flags $1"; shift; done
exec "{python}" $flags "{stand_in}" "$@"
"""
BEGIN = """
import errno, json, os, signal, subprocess, sys, threading, time
from pathlib import Path
from vlm.machine import system
root = Path(os.environ["WINDOWS_ROOT"])
def raised(function, *words):
    try:
        function(*words)
    except OSError as error:
        return errno.errorcode[error.errno]
def started(code, *words):
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE)
    child.stdout.readline()
    return child
"""
OnWindows = Callable[..., Any]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in needs Linux")


@pytest.fixture
def on_windows(tmp_path: Path) -> OnWindows:
    """Runs code as on Windows, and returns what it prints as JSON."""
    python, root = tmp_path / "python", tmp_path / "disk"
    python.write_text(PYTHON.format(python=sys.executable, stand_in=STAND_IN))
    python.chmod(0o755)
    root.mkdir()
    environment = os.environ | {"WINDOWS_ROOT": str(root), "WINDOWS_PYTHON": str(python)}

    def run(code: str, **more: str) -> Any:
        command = [python, "-c", BEGIN + code]
        done = subprocess.run(command, env=environment | more, cwd=ROOT, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout.decode())

    return run


IMPORTED = """
import importlib
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps([system.__name__, "vlm.machine.windows" in sys.modules]))
"""


@pytest.mark.slow
def test_every_module_imports_without_what_posix_alone_has(on_windows: OnWindows):
    names = [module_name(path) for path in sources("app", "vlm", "training", "ui", "recipes")]
    names = [name for name in names if name not in ("vlm.machine.posix", "training.__main__")]
    assert len(names) > 150
    assert on_windows(IMPORTED.format(names=names)) == ["vlm.machine.windows", True]


def test_the_stand_in_hides_what_windows_has_not(on_windows: OnWindows):
    code = """
missing = [name for name in ("fork", "killpg", "pread", "O_NOFOLLOW") if not hasattr(os, name)]
try:
    import fcntl
except ModuleNotFoundError as error:
    missing.append(error.name)
file = root / "file"
with file.open("w", encoding="ascii") as stream:
    print(json.dumps([missing, raised(os.unlink, file), raised(os.replace, file, root / "other")]))
"""
    hidden = ["fork", "killpg", "pread", "O_NOFOLLOW", "fcntl"]
    assert on_windows(code) == [hidden, "EACCES", "EACCES"]


HOLDER = """
import os, sys, time
from pathlib import Path
from vlm.machine import system
held = system.open_lock(Path(sys.argv[1]))
assert system.take_lock(held)
os.lseek(held, 0, os.SEEK_SET)
os.write(held, b"me")
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_one_process_s_alone_and_its_file_is_read_meanwhile(on_windows: OnWindows):
    code = f"""
file = root / "lock"
before = system.is_locked(file)
holder = started({HOLDER!r}, file)
mine = system.open_lock(file)
held = [system.is_locked(file), system.take_lock(mine), file.read_text("ascii")]
holder.kill()
holder.wait()
after = [system.is_locked(file), system.take_lock(mine), system.is_locked(file), system.take_lock(mine)]
system.close_lock(mine)
print(json.dumps([before, held, after, system.is_locked(file)]))
"""
    assert on_windows(code) == [False, [True, False, "me"], [False, True, True, False], False]


def test_many_who_look_at_a_free_lock_at_once_take_nobody_for_its_holder(on_windows: OnWindows):
    code = """
file, seen = root / "lock", []
system.close_lock(system.open_lock(file))
def look():
    seen.extend(system.is_locked(file) for _ in range(100))
threads = [threading.Thread(target=look) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([len(seen), sum(seen)]))
"""
    assert on_windows(code) == [600, 0]


def test_a_ticket_is_renamed_and_deleted_while_its_waiter_has_it_open(on_windows: OnWindows):
    code = """
ticket, other = root / "ticket", root / "other"
waiter = system.open_lock(ticket)
system.take_lock(waiter)
system.rename(ticket, other)
moved = [system.is_locked(ticket), system.is_locked(other)]
system.unlink(other)
system.unlink(other)
print(json.dumps([moved, other.exists(), system.is_locked(root)]))
"""
    assert on_windows(code) == [[False, True], False, False]


def test_a_file_that_a_reader_has_open_is_replaced_once_it_is_closed(
    on_windows: OnWindows,
):
    code = """
from vlm.filesystem import write_atomic
from vlm.machine import windows
file = root / "settings"
write_atomic(file, "old")
reader = file.open("rb")
threading.Timer(0.3, reader.close).start()
write_atomic(file, "new", durable=True)
windows.PATIENCE_S = 0.2
with file.open("rb"):
    refused = raised(write_atomic, file, "newest")
    left = [name for name in os.listdir(root)]
print(json.dumps([reader.closed, file.read_text("utf-8"), refused, left]))
"""
    # A draft that was not taken is deleted.
    assert on_windows(code) == [True, "new", "EACCES", ["settings"]]


def test_a_folder_takes_the_place_of_an_empty_one_alone_as_on_posix(on_windows: OnWindows):
    code = """
from vlm.filesystem import new_folder
def made(folder):
    with new_folder(folder) as draft:
        (draft / "file").touch()
(root / "empty").mkdir()
made(root / "empty")
print(json.dumps([raised(made, root / "empty"), sorted(os.listdir(root)), os.listdir(root / "empty")]))
"""
    assert on_windows(code) == ["EEXIST", ["empty"], ["file"]]


def test_no_link_and_no_folder_is_opened_as_a_file(on_windows: OnWindows):
    code = """
from training.data.safe_paths import open_regular
from vlm.errors import UserError
(root / "file").write_bytes(b"x\\r\\n")
os.symlink(root / "file", root / "link")
def code_of(name):
    try:
        with open_regular(root / name, name) as file:
            return file.read().decode()
    except UserError as error:
        return [error.code, str(error.problem)]
seen, real = [], os.lstat
def changed(path):
    status = real(path)
    if not seen.append(path):
        os.unlink(path)
        os.symlink("/dev/null", path)
    return status
first = [code_of(name) for name in ("file", "link", "folder")]
(root / "folder").mkdir()
again = code_of("folder")
os.lstat = changed
print(json.dumps([*first, again, code_of("file")]))
"""
    assert on_windows(code) == [
        "x\r\n",
        ["file-is-link", "'link' is a link"],
        ["file-missing", "'folder' does not exist"],
        ["not-an-ordinary-file", "'folder' is a folder, not a file"],
        ["file-is-link", "'file' is a link"],
    ]


ASKED = """
import signal, sys, time
from vlm.machine import system
signal.signal(system.END_SIGNAL, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_is_asked_to_end_and_another_is_killed_with_what_it_started(on_windows: OnWindows):
    code = f"""
import psutil
def begun(*words, **how):
    return subprocess.Popen(words, stdout=subprocess.PIPE, **how)
asked = begun(sys.executable, "-c", {ASKED!r}, **system.own_group([3]))
asked.stdout.readline()
system.ask_to_end(asked)
parent = begun("/bin/sh", "-c", "sleep 60 & echo $!; wait", **system.detached())
child = psutil.Process(int(parent.stdout.readline()))
system.kill_group(psutil.Process(parent.pid))
system.kill_group(psutil.Process(parent.pid))
gone = parent.wait(10)
child.wait(10)
orphan = [system.is_orphan_of(number) for number in (os.getppid(), parent.pid)]
print(json.dumps([asked.wait(10), gone, child.is_running(), orphan]))
"""
    assert on_windows(code) == [7, -9, False, [False, True]]


ALLOWED = (
    ".",
    "..",
    "cat.png",
    "mèo số 1.png",
    "a b.png",
    ".hidden",
    "com10.png",
    "console.png",
    "auxiliary",
    "a&b's",
)
REFUSED = (
    *("a:b.png", "what?.png", "CON", "aux.png", "Nul .txt", "lpt9.tar.gz", "com¹.png", "end.", "end "),
    *('a"b', "a<b>c", "a|b", "a*b", "tab\there"),
)


def test_names_that_windows_refuses_are_known_and_words_are_quoted_for_its_shells(on_windows: OnWindows):
    words = ("demo", "mèo", r"C:\Users\me", "my runs", "a&b", "it's", 'say "x"', "")
    code = f"""
refused = [name for name in {ALLOWED + REFUSED!r} if system.refuses_name(name)]
print(json.dumps([refused, [system.quoted(word) for word in {words!r}]]))
"""
    quoted = ["demo", "mèo", r"C:\Users\me", '"my runs"', '"a&b"', '"it\'s"', r'"say \"x\""', '""']
    assert on_windows(code) == [[*REFUSED], quoted]


def test_a_dataset_is_not_called_as_a_device_is(on_windows: OnWindows):
    code = """
from vlm.filesystem import slug
print(json.dumps([slug(name, "dataset") for name in ("pets", "AUX", "aux-2", "")]))
"""
    assert on_windows(code) == ["pets", "dataset", "aux-2", "dataset"]


def test_any_text_is_written_and_a_reader_that_has_gone_is_known(on_windows: OnWindows):
    # A country's code page, in which Vietnamese can't be written.
    code = """
system.speak_utf8([sys.stdout])
reader, writer = os.pipe()
os.close(reader)
stream = open(writer, "w", encoding="utf-8", newline="")
stream.write("x")
gone = system.without_reader([sys.stdout, stream])
told = [system.is_reader_gone(OSError(number, "")) for number in (errno.EPIPE, errno.EINVAL, errno.ENOSPC)]
os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_BINARY), writer)
print(json.dumps(["mèo", gone == [writer], told], ensure_ascii=False))
"""
    assert on_windows(code, PYTHONIOENCODING="cp1252") == ["mèo", True, [True, True, False]]


LIFE = """
sys.path.append("tests")
import app
from support.stand_in import started as begun, state, wait_for
from training import runs
from training.loop import worker
from training.loop.context import StopBeforeTraining, stops_at_once
from vlm.errors import UserError
def code_of(function, *words):
    try:
        function(*words)
    except UserError as error:
        return error.code
told = {}
one = begun(root, "một")
wait_for(lambda: state(one) == "running" and one.status().step > 1)
two, three = begun(root, "hai"), begun(root, "ba")
wait_for(lambda: two.status().place and three.status().place)
told["waits for"] = three.status().place.running
runs.move(three, 1)
told["moved"] = runs.waiting(root)["cpu"]
runs.stop(three)
wait_for(lambda: state(three) == "stopped")
told["live"] = [code_of(runs.delete, one), code_of(runs.rename, one, "x")]
told["listed"] = {run.name: state(run) for run in runs.list_runs(root)}
runs.stop(one)
wait_for(lambda: state(one) == "stopped")
wait_for(lambda: state(two) == "running" and two.status().step > 1)
one = runs.rename(one, "mới")
runs.write_note(one, "ghi chú")
with one.output_log.open("rb"):
    from vlm.machine import windows
    windows.PATIENCE_S, patience = 0.1, windows.PATIENCE_S
    told["open"] = code_of(runs.delete, one)
    windows.PATIENCE_S = patience
runs.delete(one)
told["trash"] = [name for name, *_ in runs.trashed(root)]
told["note"] = runs.restore(root, "mới").note
runs.stop(two)
begin = time.monotonic()
try:
    with stops_at_once(lambda: True):
        while time.monotonic() < begin + 20:
            pass
except StopBeforeTraining:
    told["raised"] = time.monotonic() < begin + 10 and signal.getsignal(system.WAKE_SIGNAL) == signal.SIG_DFL
wait_for(lambda: state(two) == "stopped")
told["ended"] = {run.name: state(run) for run in runs.list_runs(root)}
told["left"] = [path.name for path in (root / "queue" / "cpu").iterdir()]
print(json.dumps(told))
"""


def test_runs_start_wait_move_stop_and_are_renamed_deleted_and_restored(on_windows: OnWindows):
    assert on_windows(LIFE) == {
        "waits for": "một",
        "moved": ["ba", "hai"],
        "live": ["run-is-running", "run-is-running"],
        "listed": {"một": "running", "hai": "queued", "ba": "stopped"},
        "open": "run-not-moved",
        "trash": ["mới"],
        "note": "ghi chú",
        "raised": True,
        "ended": {"mới": "stopped", "hai": "stopped", "ba": "stopped"},
        "left": ["lock"],
    }
