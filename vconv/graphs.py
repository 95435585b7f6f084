"""ONNX graphs through onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vconv.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_graph(path: Path, threads: int, optimize: bool = True) -> InferenceSession:
    """A session for utterances of any length, one after another.

    Args:
        optimize: rewrite the graph to run faster, which makes it open slower.

    Raises:
        InputError: the file is no ONNX graph.
    """
    import onnxruntime  # takes 0.1 s: not before there is something to run

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # an error is raised as well, and a warning tells a user nothing
    # Utterances differ in length: neither the memory of one nor a plan of it is of use to the next.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no base class for what it raises on a bad file
        raise InputError(
            f"{path}: is not a working ONNX graph, or the weights beside it are not its own; "
            "export or download the model again"
        ) from error
