"""The user's files that a run depends on: whether they are as they were, and which ones are executed in their place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from purerl import build
from purerl.runs import files

COPIES = "run"  # the value of `--code` that stands for the copies inside the run's directory
NAMES = ("agent", "env", "network", "reward")  # options that may name a user's file
PLACES = ("data", "model")  # options of text that may name a file or a folder
INNER = ("model", "data", "loss", "optimizer")  # of a training that is optimised, which may name a user's file


def common_folder(paths: Iterable[str]) -> Path:
    """The lowest folder that holds all of the files."""
    return Path(os.path.commonpath([str(Path(path).parent) for path in paths]))


def copies_of(paths: Iterable[str]) -> dict[str, Path]:
    """Where in a run's directory the copies of files lie: as their originals do, so that they find each other.

    >>> {path: str(copy) for path, copy in copies_of(["/a/b/part.py", "/a/own.py"]).items()}
    {'/a/b/part.py': 'code/b/part.py', '/a/own.py': 'code/own.py'}
    """
    paths = list(paths)
    return {path: Path(files.CODE, os.path.relpath(path, common_folder(paths))) for path in paths}


def _is_intact(path: Path, digest: str) -> bool:
    return path.is_file() and files.digest_of(path) == digest


def _copies(directory: Path, made: Mapping[str, str]) -> dict[str, str]:
    found, inside = {}, (directory / files.CODE).resolve()
    for path, copy in copies_of(made).items():
        digest, older = made[path], directory / files.CODE / f"{made[path][:8]}-{Path(path).name}"
        copy = (older if older.is_file() else directory / copy).resolve()
        if not copy.is_relative_to(inside):
            raise ValueError(f"{directory / files.MANIFEST} names {path}, whose copy would lie outside of {inside}")
        if not _is_intact(copy, digest):
            what = "differs from its SHA-256 in the manifest" if copy.is_file() else "is gone"
            raise ValueError(f"the copy of {path}, {copy}, {what}; it is not executed")
        found[path] = str(copy)
    if foreign := sorted({path.resolve() for path in inside.rglob("*.py")} - {Path(copy) for copy in found.values()}):
        raise ValueError(f"{foreign[0]} is not in the manifest, and could be imported; nothing there is executed")
    return found


def config_of(directory: Path, code: str | Path | None) -> dict[str, Any]:
    """The config of a run with the files that are used in place of those that it names; see `sources`."""
    config = files.read_config(directory)
    return renamed(config, sources(directory, config, files.read_manifest(directory)["made_with"]["files"], code))


def _named(config: Mapping[str, Any]) -> list[str]:
    """The user's files that a config names."""
    inner = config.get("inner")
    inner = inner if isinstance(inner, dict) else {}
    names = [*(str(config.get(name)) for name in NAMES), *(str(inner.get(name)) for name in INNER)]
    return [name.rpartition(":")[0] for name in names if build.is_own(name)]


def _there(place: Path, made: Mapping[str, str], config: Mapping[str, Any], option: str) -> dict[str, str]:
    """The files at a place: a folder, laid out as the original ones, or the file for the one that the config names."""
    if place.is_dir():
        of, root = place, common_folder(made)
    elif place.is_file():
        named = sorted(set(_named(config)))
        alike = [path for path in named if Path(path).name == place.name] or named
        if len(alike) != 1:
            said = ", ".join(named) or "no file of yours"
            raise ValueError(f"{option}{place}: the run names {said}: give the folder that holds them")
        of, root = place.parent, Path(alike[0]).parent
    else:
        raise ValueError(f"{option}{place}: there is no such file or folder; the copies are named {option}{COPIES}")
    found = {}
    for path, digest in made.items():
        other = of / os.path.relpath(path, root)
        if place.is_file() and path == alike[0]:
            other = place
        if other.is_file():
            found[path] = str(other.resolve())
        elif _is_intact(Path(path), digest):
            found[path] = path
        elif path in _named(config):
            raise ValueError(f"{option}{place}: there is no {other}, which the run needs for {path}")
    return found


def sources(
    directory: Path,
    config: Mapping[str, Any],
    made: Mapping[str, str],
    code: str | Path | None = None,
    same: bool = True,
    option: str = "--code ",
) -> dict[str, str]:
    """The file to use for every file that a run depends on: `{path in the config or manifest: path of the file}`.

    Args:
      made: the SHA-256 of every file, by path, as in the manifest.
      code: None: the original files, if they are as they were; `run`: the copies inside the directory, if their SHA-256
        is that of the manifest; a path: the file or folder there.
      same: without `code`, refuse files that have changed.
      option: the beginning of the words that give `code`.
    Raises:
      ValueError: if a file has changed, is gone or belongs to the directory itself; the message says what can be done.
    """
    for path in _named(config):
        if Path(path).resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{directory} names code of its own, {path}; it is not run")
        if path not in made:
            raise ValueError(f"{directory / files.CONFIG} names {path}, which its manifest lacks; it is not run")
    if code is not None and not made:
        raise ValueError(f"{option}{code}: {directory} depends on no file of yours")
    if code is not None and str(code) == COPIES:
        return _copies(directory, made)
    if code is not None:
        return _there(Path(code), made, config, option)
    gone = [path for path in made if not Path(path).is_file()]
    changed = [path for path in made if same and path not in gone and not _is_intact(Path(path), made[path])]
    if gone or changed:
        what = [f"{path} has changed since the run was made" for path in changed] + [f"{path} is gone" for path in gone]
        raise ValueError(
            f"{', '.join(what)}: {option}{COPIES} uses the copies inside {directory}, {option}PATH the file or folder "
            "there"
        )
    return {path: path for path in made}


def _moved(place: str, used: Mapping[str, str]) -> str:
    """The place that a file or folder has among the files that are used."""
    if place in used:
        return used[place]
    inside = [path for path in used if Path(path).is_relative_to(place)]
    if not inside:
        return place
    below = os.path.relpath(inside[0], place)
    folder = used[inside[0]].removesuffix(below)
    if any(used[path] != folder + os.path.relpath(path, place) for path in inside):
        raise ValueError(f"the files of {place} are not together: the run was made by another version of purerl")
    return folder.rstrip(os.sep)


def renamed(config: Mapping[str, Any], used: Mapping[str, str]) -> dict[str, Any]:
    """A config with the files that are used in place of those that it names."""

    def moved_names(part: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        words = {name: part[name].rpartition(":") for name in names if build.is_own(str(part.get(name)))}
        return {name: f"{used.get(path, path)}:{function}" for name, (path, _, function) in words.items()}

    out = {**config, **moved_names(config, NAMES)}
    if isinstance(inner := config.get("inner"), dict):
        images = {} if build.is_own(str(inner.get("data"))) else {"data": _moved(str(inner.get("data")), used)}
        out["inner"] = {**inner, **images, **moved_names(inner, INNER)}
    place = lambda part: {name: _moved(part[name], used) for name in PLACES if isinstance(part.get(name), str)}
    if isinstance(config.get("text"), dict):
        out["text"] = {**config["text"], **place(config["text"])}
    elif "agent" not in config:
        out |= place(config)
    return out
