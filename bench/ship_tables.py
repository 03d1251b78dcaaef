"""Tables of what ships: ONNX exports beside eager PyTorch, and island mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table


def onnx_table(values: Mapping[str, Any]) -> str:
    """Milliseconds a batch, by recipe, threads and batch size."""
    rows = []
    for name in values["recipes"]:
        for threads in values["threads"]:
            for batch in values["batches"]:
                at = f"{name}.{threads}.{batch}"
                if f"{at}.speedup" not in values:
                    continue
                rows.append(
                    [
                        f"{name}, {values[f'{name}.seeds']} seeds",
                        str(threads),
                        str(batch),
                        figure(values[f"{at}.eager_ms"], 2),
                        figure(values[f"{at}.plain_ms"], 2),
                        figure(values[f"{at}.onnx_ms"], 2),
                        figure(values[f"{at}.speedup"], 2),
                        f"{values[f'{name}.max_abs_diff']:.1e}",
                    ]
                )
    heading = (
        "## ONNX exports on a CPU\n\n"
        f"`make bench-onnx_export`: {values['runtime']}, opset {values['opset']}, "
        f"{values['machine']}. Milliseconds a batch of PyTorch in eager mode and of onnxruntime "
        "(`plain`: without its graph optimisations), with as many threads each, the fastest of "
        "several in turn; mean ± standard deviation over seeds of weights, samples and head. "
        f"Largest difference of any output {values['max_abs_diff']:.1e}; "
        f"{values['speedup']:.2f} times as fast in the geometric mean of all rows, "
        f"{values['least_speedup']:.2f} times in the slowest. Goal: {values['goal']}.\n"
    )
    heads = ["recipe", "threads", "batch", "eager ms", "plain ms", "ONNX ms", "times faster",
             "difference"]  # fmt: skip
    return "\n".join([heading, table(heads, rows)])


def island_table(values: Mapping[str, Any]) -> str:
    """What each command asked of the network."""
    heading = (
        "## Island mode\n\n"
        "`make bench-island`: every command in a network namespace with "
        f"{' and '.join(values['interfaces'])} alone, under strace; connect() and datagrams to any "
        f"internet address. A control that connects once was counted {values['control_attempts']} "
        f"times. Goal: {values['goal']}; found {values['connection_attempts']}.\n"
    )
    rows = [[f"`gobelin {name}`", str(count)] for name, count in values["commands"].items()]
    return "\n".join([heading, table(["command", "connection attempts"], rows)])
