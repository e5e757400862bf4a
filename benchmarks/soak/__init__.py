"""The soak: a run that nobody can lose, tried at length. `make soak`, or `python -m benchmarks.soak`.

Linux alone: it follows system calls (ptrace), forks, and mounts small disks.
"""
