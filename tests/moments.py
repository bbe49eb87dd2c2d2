"""What a directory holds at every moment at which its process could be killed, or the power could be cut."""

import contextlib
import os
import pathlib
import shutil
from typing import NamedTuple
from unittest import mock

import safetensors.numpy

from purerl.runs import files


class Moment(NamedTuple):
    """Files by their paths in the directory; None for directories."""

    killed: dict  # all that has been written
    cut_off: dict  # of what was not waited for with fsync, a half is lost


class Recorder:
    """`moments` by the names of what has just been done; `(2)` where that is done a second time."""

    def __init__(self, directory):
        self.directory, self.moments, self.safe = directory, {}, {}

    def note(self, what, path, size=None):
        """Keep a moment, at which `path` has the size given."""
        if not path.is_relative_to(self.directory):
            return
        found = {p: p.read_bytes() if p.is_file() else None for p in self.directory.rglob("*")}
        if size is not None:
            found[path] = found[path][:size]
        relative = lambda files: {str(p.relative_to(self.directory)): data for p, data in files.items()}
        name, count = f"{what} {path.relative_to(self.directory)}", 1
        while (numbered := name if count == 1 else f"{name} ({count})") in self.moments:
            count += 1
        lost = {p: data if data is None else self._lost(p, data) for p, data in found.items()}
        self.moments[numbered] = Moment(relative(found), relative(lost))

    def _lost(self, path, data):
        safe = self.safe.get(path.stat().st_ino, b"")
        safe = safe if data.startswith(safe) else b""
        return data[: (len(safe) + len(data)) // 2]

    def appended(self, path, before):
        """Keep moments of a file that grows where it lies."""
        size = path.stat().st_size
        for what, at in (("begun", before + 5), ("half", (before + size) // 2), ("nearly", size - 1)):
            self.note(what, path, at)
        self.note("written", path)

    def wrap(self, function, what, which=0):
        """The function, after which a moment is kept, of the path that its argument `which` is."""

        def call(*args, **kwargs):
            path = pathlib.Path(args[which])
            if what in ("moved", "removed") and path.exists():
                self.safe.pop(path.stat().st_ino, None)  # another file may get its number
            out = function(*args, **kwargs)
            if what == "written" and path.is_relative_to(self.directory):
                self.note("half", path, path.stat().st_size // 2)
            self.note(what, path)
            return out

        return call

    def append(self, function):
        """`files.append_metrics`, with its moments."""

        def call(path, *args):
            before = path.stat().st_size if path.exists() else 0
            function(path, *args)
            self.appended(path, before)

        return call

    def fsync(self, function):
        """`os.fsync`, with its moments."""

        def call(handle):
            function(handle)
            for path in self.directory.rglob("*"):
                if path.is_file() and os.path.samestat(path.stat(), os.fstat(handle)):
                    self.safe[path.stat().st_ino] = path.read_bytes()
                    self.note("synced", path)

        return call


@contextlib.contextmanager
def recorded(directory):
    """Meanwhile, the moments of a directory, in their order."""
    recorder, patch = Recorder(directory), mock.patch.object
    with contextlib.ExitStack() as stack:
        for place, name, what, which in (
            (safetensors.numpy, "save_file", "written", 1),
            (pathlib.Path, "write_text", "written", 0),
            (shutil, "copy", "written", 1),
            (os, "mkdir", "made", 0),
            (os, "rename", "moved", 1),
            (os, "replace", "moved", 1),
            (os, "unlink", "removed", 0),
        ):
            stack.enter_context(patch(place, name, recorder.wrap(getattr(place, name), what, which)))
        stack.enter_context(patch(files, "append_metrics", recorder.append(files.append_metrics)))
        stack.enter_context(patch(os, "fsync", recorder.fsync(os.fsync)))
        yield recorder.moments


def restore(files, directory):
    """A directory as it was at a moment."""
    directory.mkdir()
    for name, data in sorted(files.items()):
        if data is None:
            (directory / name).mkdir()
        else:
            (directory / name).write_bytes(data)
