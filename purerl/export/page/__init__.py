"""A page that plays an exported policy in a browser, by ONNX Runtime Web: one HTML file, for classic control."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from purerl.export import folder

# of the npm package onnxruntime-web, in its folder dist
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
HERE = Path(__file__).parent


def environments() -> list[str]:
    """The names of the environments that have a page."""
    return re.findall(r'^  "([\w-]+)": {', (HERE / "environments.js").read_text(encoding="utf-8"), re.MULTILINE)


def check(about: Mapping[str, Any]) -> None:
    """Raise a ValueError unless a policy, of which policy.json says this, is of an environment that has a page."""
    name, wrappers = about["environment"], about.get("wrappers") or {}
    if name not in environments():
        raise ValueError(f"there is no page for {name}; there are pages for {', '.join(environments())}")
    if wrappers:
        raise ValueError(f"there is no page for {name} with {', '.join(wrappers)}: pages play the plain environment")


def page(about: Mapping[str, Any], model: bytes) -> str:
    """The page of a policy.

    Args:
      about: the contents of policy.json; `env_params` are the environment's parameters.
      model: the policy as an ONNX model, which becomes a part of the page.
    Raises:
      ValueError: as `check`.
    """
    check(about)
    score = about.get("return")
    said = [f"Exported by purerl {about['versions']['purerl']} on {about['made']}."]
    if score:
        said += [
            f"Return {score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}] in {score['episodes']} episodes."
        ]
    kept = {name: about[name] for name in ("environment", "env_params", "inputs", "outputs")}
    parts = {
        "title": html.escape(f"{about.get('agent') or 'A policy'} on {about['environment']}"),
        "about": html.escape(" ".join(said)),
        "environments": (HERE / "environments.js").read_text(encoding="utf-8"),
        "policy": json.dumps(kept).replace("<", "\\u003c"),
        "model": base64.b64encode(model).decode(),
        "runtime": RUNTIME[0],
    }
    text = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{(" + "|".join(parts) + r")\}", lambda match: parts[match[1]], text)


def beside(more: Mapping[str, bytes]) -> Callable[[Mapping[str, Any], Mapping[str, bytes]], dict[str, bytes]]:
    """The files of a page, for `saving.write`: the page, and `more`, such as those of `runtime`."""
    return lambda about, programs: {folder.PAGE: page(about, programs[folder.ONNX]).encode(), **more}


def runtime(directory: Path) -> dict[str, bytes]:
    """The files of ONNX Runtime Web that a page reads, by their names.

    Args:
      directory: of the npm package onnxruntime-web, or one that holds it in `node_modules`.
    Raises:
      ValueError: if they are not there.
    """
    package = Path("node_modules") / "onnxruntime-web"
    for where in (directory, directory / "dist", directory / package / "dist"):
        if all((where / name).is_file() for name in RUNTIME):
            return {name: (where / name).read_bytes() for name in RUNTIME}
    raise ValueError(
        f"--runtime is {directory}; it must be the folder of the npm package onnxruntime-web, which has "
        + " and ".join(RUNTIME)
    )
