"""ONNX: a model's graphs for any runtime, with a batch of any size, checked by onnxruntime.

onnxruntime calls its makers from the moment it is imported (1.29 and later, on Linux too), and
`disable_telemetry_events` comes too late: so it is imported here alone, behind its opt-out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gobelin.client.sovereign.export.inference import (
    Graph,
    graphs_of,
    largest_difference,
    require_same,
)
from gobelin.client.sovereign.package import SovereignModel
from gobelin.shared.errors import ConfigError, ExportError

OPT_OUT = "ORT_DISABLE_TELEMETRY"  # read once, when onnxruntime is loaded
INT64 = 7  # onnx.TensorProto.INT64
OPSET = 20  # the first with Gelu; every runtime of the last years has it
MOST = 1e-4  # absolute difference of any output from the model's own
EXAMPLES = 3  # samples the graph is traced with: neither 1 nor what else a size may be


def write_onnx(model: SovereignModel, folder: Path) -> dict[str, Any]:
    """Write NAME.onnx for each graph; returns what there is to say of them.

    Raises ConfigError where the libraries are missing, ExportError where a graph cannot be
    exported or computes something else than the model.
    """
    _require_libraries()
    told = {graph.name: _write(graph, folder) for graph in graphs_of(model)}
    worst = max(each["max_abs_diff"] for each in told.values())
    return {
        "opset": OPSET,
        "graphs": told,
        "max_abs_diff": worst,
        "checked_by": f"onnxruntime {runtime().__version__}",
    }


def _write(graph: Graph, folder: Path) -> dict[str, Any]:
    file = folder / f"{graph.name}.onnx"
    try:
        with _quiet():
            made = torch.onnx.export(
                graph.module,
                graph.made_up(EXAMPLES, 0),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) * len(graph.inputs),
                custom_translation_table=_nanmedian(),
                verbose=False,
            )
        assert made is not None
        made.save(str(file), external_data=False)
    except OSError:  # the disk, not the graph
        raise
    except Exception as error:  # of a plug-in's operators, anything
        raise ExportError(
            f"{graph.name} cannot be written as ONNX ({type(error).__name__})",
            "export it --to hf, or look at what torch.onnx says of the recipe's modules",
        ) from error
    session = open_session(file)
    difference = largest_difference(graph, lambda inputs: run_session(session, inputs))
    require_same(file.name, difference, MOST)
    described = {i.name: {"shape": i.shape, "type": i.type} for i in session.get_inputs()}
    return {
        "file": file.name,
        "inputs": described,
        "outputs": {o.name: {"shape": o.shape, "type": o.type} for o in session.get_outputs()},
        "max_abs_diff": difference,
    }


def open_session(file: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU, of so many threads; 0: as torch has."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Its outputs for these inputs."""
    names = [told.name for told in session.get_inputs()]
    fed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return tuple(torch.from_numpy(found) for found in session.run(None, fed))


def _nanmedian() -> dict[Any, Any]:
    """What torch's exporter does not know: the median of values that are not NaN, along an axis.

    Sorted with NaN behind all others, the lower one in the middle of those that are none.
    """
    from onnxscript import opset20 as op

    def nanmedian(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
        axis = op.Constant(value_ints=[dim])
        missing = op.IsNaN(x)
        infinite, nan = op.Constant(value_float=math.inf), op.Constant(value_float=math.nan)
        size = op.Gather(op.Shape(x), axis)
        values, places = op.TopK(op.Where(missing, infinite, x), size, axis=dim, largest=0)
        one, two = op.Constant(value_int=1), op.Constant(value_int=2)
        count = op.ReduceSum(op.Cast(op.Not(missing), to=INT64), axis, keepdims=1)
        middle = op.Div(op.Max(op.Sub(count, one), op.Sub(one, one)), two)
        empty = op.Equal(count, op.Sub(one, one))
        found = op.Where(empty, nan, op.GatherElements(values, middle, axis=dim))
        where = op.GatherElements(places, middle, axis=dim)
        if keepdim:
            return found, where
        return op.Squeeze(found, axis), op.Squeeze(where, axis)

    return {torch.ops.aten.nanmedian.dim: nanmedian}


def runtime() -> Any:
    """The module onnxruntime, which calls nobody; raises ImportError where it is not installed."""
    os.environ[OPT_OUT] = "1"
    import onnxruntime

    return onnxruntime


def _require_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        runtime()
    except ImportError as error:
        what = f"ONNX needs a library that is not installed: {error.name}"
        raise ConfigError(what, "pip install 'gobelin[onnx]'") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints of its own progress and of libraries it lacks."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
