"""An exported policy's folder: its programs, policy.json and README. Neither this file nor reading needs jax."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
ABOUT, README = "policy.json", "README.md"
STABLEHLO, ONNX = "policy.stablehlo", "policy.onnx"
PAGE, AGENT = "page.html", "agent.safetensors"  # of `export.page`, and what training can go on from
READABLE_DAYS = 180  # jax.export reads programs that are up to six months old
_PARTS = {"inputs": list, "outputs": list, "files": dict, "observation": dict, "action": dict, "versions": dict}
_DTYPES = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")


def sha256(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write(directory: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write a new folder of an exported policy; it appears complete or not at all.

    Args:
      files: the programs by their file names.
      about: the contents of policy.json, to which format, sizes and hashes are added.
    Raises:
      ValueError: if the directory exists and is not empty.
      OSError: if it cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not empty; give another folder, or remove it first")
    directory = directory.absolute()
    listed = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}
    about = {**about, "format": FORMAT, "files": listed}
    texts = {ABOUT: json.dumps(about, indent=1, allow_nan=False) + "\n", README: readme(about)}
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=directory.name + ".", dir=directory.parent) as part:
            new = Path(part) / directory.name
            new.mkdir()
            for name, data in [*files.items(), *((name, text.encode()) for name, text in texts.items())]:
                (new / name).write_bytes(data)
            if directory.exists():
                directory.rmdir()
            new.rename(directory)
    except OSError as error:
        raise OSError(f"{directory} cannot be written: {error.strerror or error}") from error


def _is_port(port: Any) -> bool:
    """Whether an entry of policy.json is that of an input or output."""
    if not isinstance(port, dict) or not all(isinstance(port.get(name), list) for name in ("path", "shape")):
        return False
    size = lambda n: n == "batch" or (type(n) is int and n >= 0)
    named = isinstance(port.get("name"), str) and isinstance(port.get("dtype"), str)
    steps = all(isinstance(step, (str, int)) for step in port["path"])
    return named and steps and all(map(size, port["shape"])) and bool(_DTYPES.fullmatch(port["dtype"]))


def read(directory: Path) -> dict[str, Any]:
    """The contents of policy.json.

    Raises:
      ValueError: if there is none, or if it is damaged or of another format.
    """
    path = directory / ABOUT
    if not path.is_file():
        raise ValueError(f"{directory} is not an exported policy: it has no {ABOUT}")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(about, dict) or "format" not in about:
        raise ValueError(f"{path} is not about an exported policy: it has no format")
    if about["format"] != FORMAT:
        newer = type(about["format"]) is int and about["format"] > FORMAT
        advice = "; a newer version of purerl reads it" if newer else ""
        raise ValueError(f"{directory} has format {about['format']!r}; this version reads format {FORMAT}{advice}")
    for name, kind in _PARTS.items():
        if not isinstance(about.get(name), kind):
            raise ValueError(f"{path} is damaged: {name} is missing or malformed")
    ports = [*about["inputs"], *about["outputs"]]
    if not all(map(_is_port, ports)):
        raise ValueError(f"{path} is damaged: name, path, shape or dtype of an input or output is missing or malformed")
    names = [port["name"] for port in ports]
    observed = any(port["name"].partition(".")[0] == "obs" for port in about["inputs"])
    if not observed or not about["outputs"] or len({*names}) < len(names):
        raise ValueError(f"{path} is damaged: it has no observation, no output, or two of one name")
    if not all(isinstance(listed, dict) for listed in about["files"].values()):
        raise ValueError(f"{path} is damaged: files has no hash of some")
    return about


def read_program(directory: Path, about: Mapping[str, Any], name: str) -> bytes:
    """The program in a file, whose hash is that in policy.json.

    Raises:
      ValueError: if it is missing, has been changed, or has expired.
    """
    listed = about["files"].get(name)
    if listed is None:
        programs = [other for other in (STABLEHLO, ONNX) if other in about["files"]]
        raise ValueError(f"{directory} has no {name}; it has {', '.join(programs) or 'no program'}")
    try:
        data = (directory / name).read_bytes()
    except OSError as error:
        raise ValueError(f"{directory / name} cannot be read: {error.strerror or error}") from error
    if sha256(data) != listed.get("sha256"):
        raise ValueError(f"{directory / name} has been changed: its SHA-256 is not that in {ABOUT}; it is not run")
    return data


def check_date(directory: Path, about: Mapping[str, Any], version: str) -> None:
    """Raise a ValueError if the StableHLO program has expired, unless JAX has the version that wrote it."""
    made = about["versions"].get("jax")
    try:
        until = datetime.date.fromisoformat(about["readable_until"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{directory / ABOUT} is damaged: readable_until is no date") from None
    if datetime.date.today() > until and version != made:
        raise ValueError(
            f"{directory}/{STABLEHLO} could be read until {until}, and this is JAX {version}: export the policy again, "
            f"or install jax=={made}, which wrote it"
        )


def _example(port: Mapping[str, Any]) -> str:
    shape = tuple(1 if n == "batch" else n for n in port["shape"])
    fill = "ones" if port["name"] == "reset" else "zeros"
    return f"np.{fill}({shape}, np.{'bool_' if port['dtype'] == 'bool' else port['dtype']})"


def readme(about: Mapping[str, Any]) -> str:
    """The README of a folder: what it holds, and ten lines that load each of its programs."""
    names = [port["name"] for port in about["outputs"]]
    inputs = ",\n    ".join(f'"{port["name"]}": {_example(port)}' for port in about["inputs"])
    feed = f"inputs = {{\n    {inputs},\n}}"
    title = f"{about.get('agent') or 'A policy'} for {about.get('environment') or 'an environment'}"
    lines = [
        f"# {title}",
        "",
        f"Exported by purerl {about['versions']['purerl']} on {about['made']}. `policy.json` lists inputs and outputs "
        "with their shapes and dtypes (the first axis of each is a batch of any size), the spaces of observations and "
        "actions, the return of the policy, and the SHA-256 of each file.",
    ]
    if any(port["name"] == "reset" for port in about["inputs"]):
        lines += [
            "",
            "The policy has memory: give `next_memory` of one step as `memory` to the next one, and `reset` True at "
            "the start of an episode, where any memory is ignored.",
        ]
    if any(port["name"].startswith("noise") for port in about["inputs"]):
        lines += ["", "Actions are sampled: fill `noise` with independent uniform uint32 numbers at every step."]
    if "most_tokens" in about:
        lines += [
            "",
            f"A text has at most {about['most_tokens']} tokens, its prompt included; a further one replaces the last.",
        ]
    if STABLEHLO in about["files"]:
        lines += [
            "",
            f"## JAX (`pip install jax flatbuffers numpy`), readable until {about['readable_until']}",
            "",
            "```python",
            "import numpy as np",
            "from jax import export",
            "",
            f'program = export.deserialize(bytearray(open("{STABLEHLO}", "rb").read()))',
            feed,
            "outputs = program.call(*inputs.values())  # in the order of policy.json",
            f"print(dict(zip({names}, outputs)))",
            "```",
        ]
    if ONNX in about["files"]:
        lines += [
            "",
            "## ONNX (`pip install onnxruntime numpy`)",
            "",
            "```python",
            "import numpy as np",
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{ONNX}", providers=["CPUExecutionProvider"])',
            feed,
            f"outputs = session.run({names}, inputs)",
            f"print(dict(zip({names}, outputs)))",
            "```",
        ]
    if PAGE in about["files"]:
        lines += ["", "## Browser", "", f"`python -m http.server` in this folder, then http://localhost:8000/{PAGE}."]
    lines += [
        "",
        "## purerl",
        "",
        "`purerl.export.load(FOLDER)` checks the hash and gives `policy(obs)` on NumPy arrays; `python -m "
        "purerl.export.serve FOLDER` answers JSON over HTTP.",
        "",
    ]
    if AGENT in about["files"]:
        lines[-1:] = ["", f"`purerl train ... --init-from FOLDER` goes on from `{AGENT}`; no program reads it.", ""]
    return "\n".join(lines)
