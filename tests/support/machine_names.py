"""Names that not every operating system has, and where a file's source names one.

The lists follow the "Availability" notes of Python's library reference. `vlm/machine` alone may name these.
"""

import ast
import importlib.util
import re
from collections.abc import Collection, Iterator
from pathlib import Path

# Modules of one system alone.
MODULES = {
    *("crypt", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "resource", "spwd", "syslog"),
    *("termios", "tty"),
    *("_winapi", "_winreg", "msvcrt", "nt", "winreg", "winsound"),
}
# What a module that every system has, has on one alone.
ATTRIBUTES = {
    "os": set(
        """
        chflags chown chroot confstr ctermid fchdir fchmod fchown fdatasync fork forkpty fpathconf
        getresgid getresuid getsid getuid initgroups kill killpg lchflags lchmod lchown lockf major
        fstatvfs getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority makedev minor
        mkfifo mknod nice openpty pathconf pidfd_open pipe2 posix_fadvise posix_fallocate posix_spawn
        posix_spawnp pread preadv pwrite pwritev readv register_at_fork sched_getaffinity sched_setaffinity
        sched_yield sendfile setegid seteuid setgid setgroups setpgid setpriority setregid setreuid setsid
        setuid statvfs sync sysconf tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4 waitid writev
        copy_file_range eventfd memfd_create splice getxattr listxattr removexattr setxattr WCONTINUED
        WEXITSTATUS WIFEXITED WIFSIGNALED WNOHANG WTERMSIG WUNTRACED O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY
        O_DSYNC O_EXLOCK O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_RSYNC O_SHLOCK O_SYNC
        O_TMPFILE EX_OK EX_USAGE EX_DATAERR EX_NOINPUT EX_UNAVAILABLE EX_SOFTWARE EX_OSERR EX_CANTCREAT
        EX_IOERR EX_TEMPFAIL EX_NOPERM EX_CONFIG O_BINARY O_NOINHERIT O_RANDOM O_SEQUENTIAL O_SHORT_LIVED
        O_TEMPORARY O_TEXT startfile name
        """.split()
    ),
    "signal": set(
        """
        SIGALRM SIGBUS SIGCHLD SIGCLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGPWR SIGQUIT
        SIGSTOP SIGSYS SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU
        SIGXFSZ alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending
        sigtimedwait sigwait sigwaitinfo CTRL_BREAK_EVENT CTRL_C_EVENT SIGBREAK
        """.split()
    ),
    "select": {"devpoll", "epoll", "kqueue", "poll", "select"},
    "socket": {"AF_UNIX", "CMSG_LEN", "recv_fds", "send_fds", "sethostname", "socketpair"},
    "time": {"clock_gettime", "clock_settime", "pthread_getcpuclockid", "tzset"},
    "subprocess": set(
        """
        CREATE_NEW_CONSOLE CREATE_NEW_PROCESS_GROUP CREATE_NO_WINDOW DETACHED_PROCESS STARTUPINFO
        list2cmdline
        """.split()
    ),
    "sys": {"platform", "getwindowsversion"},
    "platform": {"platform", "system", "uname", "win32_ver", "mac_ver"},
    "shlex": {"quote", "join"},  # of a POSIX shell
}
KEYWORDS = {
    *("close_fds", "creationflags", "pass_fds", "preexec_fn", "process_group", "start_new_session"),
    *("dir_fd", "dst_dir_fd", "src_dir_fd", "startupinfo"),
}
FOLDERS = re.compile(r"/(?:bin|dev|etc|proc|sys|tmp|usr|var)(?:/|$)|[A-Za-z]:\\")
TEXT_MODE = re.compile(r"[rwax]\+?t?")


# Test files that import these can't be imported on Windows.
NEEDS = {
    "support.terminal": {"fcntl", "pty", "termios"},
    "benchmarks.soak.fuzz": {"fcntl"},
    "benchmarks.soak.worker_stand_in": {"fcntl"},
}


def what_is_missing(source: str, missing: Collection[str]) -> set[str]:
    """Returns which of the modules that a system lacks a test file imports, itself or through its support."""
    found = {name for node in ast.parse(source).body for name in _imported(node)}
    needed = {each for name in found for each in {name.split(".")[0], *NEEDS.get(name, ())}}
    return needed & {*missing}


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def left_out(folder: Path) -> list[str]:
    """Returns the test files below a folder that this system can't import."""
    missing = {
        name for name in ("fcntl", "pty", "resource", "termios") if importlib.util.find_spec(name) is None
    }
    files = sorted(folder.rglob("test_*.py")) if missing else []
    return [str(file) for file in files if what_is_missing(file.read_text("utf-8"), missing)]


def named(source: str) -> list[str]:
    """Returns `line: what` of names that not every system has, and texts whose encoding it would choose."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and ast.get_docstring(node) is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: alias.name for alias in node.names}
    found = [
        f"{node.lineno}: {what}"
        for node in ast.walk(tree)
        if id(node) not in documented
        for what in _of_node(node, known)
    ]
    return sorted(found, key=lambda row: int(row.split(":")[0]))


def _of_node(node: ast.AST, known: dict[str, str]) -> Iterator[str]:
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        case ast.ImportFrom(module=str(module), level=0):
            yield from [module] if module.split(".")[0] in MODULES else []
            own = ATTRIBUTES.get(module, set())
            yield from (f"{module}.{alias.name}" for alias in node.names if alias.name in own)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            if attribute in ATTRIBUTES.get(known.get(name, ""), ()):
                yield f"{known[name]}.{attribute}"
        case ast.Constant(value=str(text)):
            yield from [text] if FOLDERS.match(text) else []
        case ast.Call():
            yield from (f"{word.arg}=" for word in node.keywords if word.arg in KEYWORDS)
            yield from _of_call(node, known)


def _of_call(call: ast.Call, known: dict[str, str]) -> Iterator[str]:
    words = {word.arg for word in call.keywords}
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    match call.func:
        case ast.Name(id="getattr" | "hasattr") if len(call.args) > 1:
            of, name = (ast.unparse(each) for each in call.args[:2])
            if name.strip("'\"") in ATTRIBUTES.get(known.get(of, ""), ()):
                yield f"{of}.{name}"
        case ast.Attribute(attr="rename" | "replace" as name) if len(call.args) == 1 and not words:
            yield f".{name}(…)"
        case ast.Attribute(attr="read_text"):
            yield from [] if call.args or "encoding" in words else ["read_text without an encoding"]
        case ast.Attribute(attr="write_text"):
            whole = len(call.args) > 1 or "encoding" in words
            yield from [] if whole else ["write_text without an encoding"]
        case ast.Attribute(attr="open") if "fileobj" in words:
            yield from []  # an archive, of bytes
        case ast.Attribute(attr="open") if not call.args or TEXT_MODE.fullmatch(str(first)):
            yield from _of_open(str(first or "r"), words)
        case ast.Name(id="open") if "open" not in known:
            mode = (
                call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else "r"
            )
            yield from _of_open(str(mode), words) if TEXT_MODE.fullmatch(str(mode)) else []


def _of_open(mode: str, words: set[str | None]) -> Iterator[str]:
    if "encoding" not in words:
        yield "open without an encoding"
    if mode[0] != "r" and "newline" not in words:
        yield "open to write without newline"
