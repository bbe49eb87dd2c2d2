"""ONNX: a program as bytes by `jax2onnx`, and back by ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

OPSET = 18  # of the standard operators; ONNX Runtime of Python and of the web run it


def _missing(name: str) -> ValueError:
    return ValueError(f"ONNX needs the package {name}: pip install 'purerl[onnx]'")


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _missing(name) from None


def check() -> None:
    """Raise a ValueError if a package that writes or reads models is missing; none is imported."""
    for name in ("jax2onnx", "onnx", "onnxruntime"):
        if find_spec(name) is None:
            raise _missing(name)


@contextlib.contextmanager
def _jax_as_it_was() -> Iterator[None]:
    """Put back the functions of jax that the converter replaces, some of them when it is imported."""
    public = [m for name, m in sys.modules.items() if name.partition(".")[0] == "jax" and "._" not in name]
    before = [(module, name, x) for module in public for name, x in vars(module).items() if callable(x)]
    try:
        yield
    finally:
        for module, name, x in before:
            if vars(module).get(name) is not x:
                setattr(module, name, x)


def write(program: Any) -> bytes:
    """The program, a `programs.Program`, as an ONNX model without custom operators, checked by `onnx.checker`.

    Raises:
      ValueError: if a package is missing, or the program has an operation that the converter does not know.
    """
    with _jax_as_it_was():
        return _written(program)


def _written(program: Any) -> bytes:
    jax2onnx, onnx = _package("jax2onnx"), _package("onnx")
    from jax import export

    from purerl.export.programs import shapes_of
    from purerl.export.rewriting import simplified

    (batch,) = export.symbolic_shape("batch")
    shapes = shapes_of(program.inputs, batch)
    names = [[port.name for port in ports] for ports in (program.inputs, program.outputs)]
    # traced before the converter replaces functions of jax by its own primitives
    flat = simplified(program.function, shapes)
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        model = jax2onnx.to_onnx(
            flat, shapes, model_name="policy", opset=OPSET, input_names=names[0], output_names=names[1]
        )
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        raise ValueError(f"the policy cannot be converted to ONNX: {type(error).__name__}: {text}") from error
    domains = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    if foreign := sorted(domains - {"", "ai.onnx"}):
        raise ValueError(f"the ONNX model has operators of {', '.join(foreign)}; only standard ones are allowed")
    return model.SerializeToString()


def read(data: bytes, names: Sequence[str]) -> Callable[..., tuple[np.ndarray, ...]]:
    """The model as a function of NumPy arrays, on one core of the CPU.

    Args:
      names: of the outputs.
    Raises:
      ValueError: if onnxruntime is missing, or cannot read it; of the function, if it cannot run it.
    """
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4  # errors are raised
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = str(error).split("\n")[0]
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} cannot read the model: {text}") from error
    inputs = [x.name for x in session.get_inputs()]

    def call(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return tuple(session.run(list(names), dict(zip(inputs, arrays, strict=True))))
        except Exception as error:  # such as an index that is out of range
            text = str(error).split("\n")[0]
            raise ValueError(f"ONNX Runtime cannot run the model on these inputs: {text}") from error

    return call
