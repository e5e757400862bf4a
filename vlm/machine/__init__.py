"""What differs between operating systems, in one place: `system` is this machine's module. No torch.

`posix` is Linux and macOS, `windows` is Windows; both have the same names and parameters. Nothing else names
what only one of them has (`tests/test_machines.py`). The standard library alone: a supervisor imports it
before it waits.
"""

try:
    from vlm.machine import posix as system
except ModuleNotFoundError:  # no fcntl
    from vlm.machine import windows as system
