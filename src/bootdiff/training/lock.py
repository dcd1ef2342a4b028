"""One process writes in a run: a lock (flock) that the kernel frees however that process ends."""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import time
import weakref
from pathlib import Path
from typing import IO

from bootdiff.errors import BootdiffError

__all__ = ["check_held", "command_line", "in_use", "is_lock", "lock", "now"]

_HELD: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _drop_in_child() -> None:
    # flock belongs to the open file, which a forked data worker shares: without this the run would stay locked for as
    # long as an orphaned worker lives. Closing the child's copy leaves the parent's lock alone.
    for file in list(_HELD):
        file.close()


os.register_at_fork(after_in_child=_drop_in_child)


def lock(directory: Path) -> IO[str]:
    """Lock a directory until the file that is returned is closed. Raises BootdiffError: another process has it."""
    import fcntl

    path = directory / "lock"
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")  # noqa: SIM115 (held)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = file.read()
        file.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise BootdiffError(f"{path}: cannot be locked ({error}); put the run on another file system") from None
        try:
            about = json.loads(owner)
            who = f"process {about['pid']} on {about['host']} (started {about['started']}: {about['command']})"
        except (ValueError, KeyError):
            who = "another process"  # it has the lock but has not yet written who it is
        raise BootdiffError(
            f"{directory}: this run is in use by {who}. Wait for it to end, stop it, or choose another directory."
        ) from None
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": now(), "command": command_line()})
    file.truncate(0)
    file.write(owner)
    file.flush()
    _HELD.add(file)
    return file


def in_use(directory: Path) -> bool:
    """Whether a process of this machine has the lock: without trying it, which would disturb one that begins just then.

    Linux lists the locks that are held. Elsewhere the process that had it last is looked for, by its number and start.
    """
    import psutil

    path = directory / "lock"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        began = time.mktime(time.strptime(str(about["started"])[:19], "%Y-%m-%dT%H:%M:%S"))
        if about["host"] != socket.gethostname():
            return False
        # A number is used again after its process has ended.
        if psutil.Process(int(about["pid"])).create_time() > began + 1:
            return False
        held = Path("/proc/locks")
        return not held.is_file() or f":{path.stat().st_ino} " in held.read_text()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False


def check_held(directory: Path, file: IO[str]) -> None:
    """BootdiffError where a directory's lock file is no longer the one that is held: deleted, replaced, moved away."""
    path = directory / "lock"
    try:
        there, ours = path.stat(), os.fstat(file.fileno())
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
            return
        what = "replaced"
    except FileNotFoundError:
        what = "deleted" if directory.is_dir() else "moved or deleted with its folder"
    raise BootdiffError(
        f"{path}: was {what} while this command ran, so that another process may write here, too: this one stops. "
        "Its last checkpoint is intact; run the same command again, where the run's folder is now"
    )


def is_lock(path: Path) -> bool:
    """Whether a file is a lock of ours, perhaps not written to the end, and not one that something else keeps."""
    try:
        found = path.read_bytes()
    except OSError:
        return False
    start = b'{"pid": '
    return start.startswith(found[: len(start)])


def now() -> str:
    """The time, to be written down."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def command_line() -> str:
    """The command of this process as a shell takes it, its program without the folder: it is read on other machines."""
    program = Path(sys.argv[0]).name
    return shlex.join(["bootdiff" if program == "__main__.py" else program, *sys.argv[1:]])
