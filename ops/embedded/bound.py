"""Become a program that ends with whoever started it: `python -I -S bound.py PARENT SIGNAL NICENESS USER PROGRAM ...`.

These are the steps between fork and exec that Python has no option for. They have a process of their own because code
that runs in the forked child of a process with threads may wait for ever for a lock that one of them held, and its
parent with it, which waits for the exec (the warning at `preexec_fn`, https://docs.python.org/3/library/subprocess.html).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
SAME_USER = "-"
"""For USER, which is UID:GID otherwise."""
CANNOT_START = 127
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""What is ignored stays ignored beyond an exec."""


def main(parent: str, stop_signal: str, niceness: str, user: str, *command: str) -> None:
    """Only returns when the program cannot be started, which a line on standard error says, or PARENT has ended.

    `command` begins with the program's path. Nothing is imported on the way: another user may not read our files.
    """
    try:
        if user != SAME_USER:
            _become(*map(int, user.split(":")))
        _be_told_when_the_parent_ends(int(stop_signal))  # after the change of user, which would undo it
        if os.getppid() != int(parent):  # it ended before the line above
            return
        os.nice(int(niceness))
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606  (no shell is what is wanted)
    except OSError as cause:
        print(f"cannot start {command[0]}: {cause.strerror}", file=sys.stderr)


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _be_told_when_the_parent_ends(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses prctl(PR_SET_PDEATHSIG)")


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.exit(CANNOT_START)
