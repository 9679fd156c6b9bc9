"""Executes the tutorials in place: `python -m docs.run_notebooks [NAME...]`.

Each notebook gets a fresh kernel and an empty temporary folder, so that it shows what a
newcomer sees. What is stored depends on nothing but the code and what it printed: no
times, no versions, one name for the kernel. A digest of the code is stored with it, by
which `tests/test_notebooks.py` notices a notebook that was edited and not executed.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parent / "tutorials"
MAX_BYTES = 400 * 1024
MAX_SECONDS = 180
# Key of the digest in the metadata of a notebook.
DIGEST = "code_digest"
# Paths of one machine, and addresses in its memory.
_LOCAL = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|opt|var)/|at 0x[\da-f]"
)
_CELL_SECONDS = 1800
_KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

Notebook = Mapping[str, Any]


def code_digest(notebook: Notebook) -> str:
    """Returns 16 letters that change with the code of a notebook."""
    code = [_text(cell["source"]) for cell in _code_cells(notebook)]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def faults(notebook: Notebook, num_bytes: int) -> list[str]:
    """Lists what keeps a notebook from being published.

    Args:
      notebook: The notebook, as JSON.
      num_bytes: Size of its file.

    Returns:
      A line for each fault; none if it was executed wholly, in order and without an
      error, its code is that which was executed, and it says nothing of the machine.
    """
    found = []
    cells = _code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    if not cells or counts != list(range(1, len(cells) + 1)):
        found.append(f"executed in the order {counts}; allowed: once, from the top")
    if notebook["metadata"].get(DIGEST) != code_digest(notebook):
        found.append("its code is not that which was executed")
    for cell, count in zip(cells, counts, strict=True):
        outputs = cell["outputs"]
        if any(output["output_type"] == "error" for output in outputs):
            found.append(f"cell {count} ended with an error")
        text = "\n".join(map(_shown_text, outputs))
        for line in filter(_LOCAL.search, text.splitlines()):
            found.append(f"cell {count} shows something of one machine: {line[:80]!r}")
        if "\r" in text or "\x1b" in text:
            found.append(f"cell {count} shows a progress bar or colours of a terminal")
    if num_bytes > MAX_BYTES:
        found.append(f"{num_bytes} bytes; allowed: at most {MAX_BYTES}")
    return found


def execute(path: Path, store: bool) -> tuple[float, float, list[str]]:
    """Executes a notebook.

    Args:
      path: The notebook.
      store: Whether to write it with its outputs.

    Returns:
      Seconds of the clock and of the processor, and the faults.

    Raises:
      nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    before, start = _processor_seconds(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=_CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            # It warns of other users of the machine, who could read its ports.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=_environment())
    seconds = time.monotonic() - start, _processor_seconds() - before
    _normalise(notebook)
    content = nbformat.writes(notebook) + "\n"
    found = faults(json.loads(content), len(content.encode()))
    if store:
        path.write_text(content, encoding="utf-8")
    return *seconds, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Executes notebooks by name, or all of them."""
    known = sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description="Executes the tutorials in place.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--check", action="store_true", help="store nothing")
    parser.add_argument(
        "--no_limit", action="store_true", help=f"only report {MAX_SECONDS} s exceeded"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no notebook {unknown[0]!r}; allowed: {', '.join(known)}")
    failed = False
    for name in options.names or known:
        path = TUTORIALS / f"{name}.ipynb"
        clock, processor, found = execute(path, store=not options.check)
        print(f"{name}: {clock:.0f} s, {processor:.0f} s of processors", flush=True)
        if clock > MAX_SECONDS:
            print(f"{name}: more than {MAX_SECONDS} s")
            failed |= not options.no_limit
        for fault in found:
            print(f"{name}: {fault}")
        failed |= bool(found)
    sys.exit(int(failed))


def _environment() -> dict[str, str]:
    """Returns the environment of a kernel, with this checkout and its commands."""
    root, commands = Path(__file__).parents[1], Path(sys.executable).parent
    paths = {"PYTHONPATH": str(root), "PATH": str(commands)}
    for name, first in paths.items():
        rest = os.environ.get(name)
        paths[name] = os.pathsep.join([first, rest] if rest else [first])
    return {**os.environ, **paths}


def _normalise(notebook: Any) -> None:
    """Leaves only what code and outputs decide."""
    notebook.metadata.clear()
    notebook.metadata.update(_KERNEL)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _smaller(output.data["image/png"])
    notebook.metadata[DIGEST] = code_digest(notebook)


def _joined(outputs: Sequence[Any]) -> list[Any]:
    """Joins what was printed in a row, which kernels cut up by chance."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        kind = output["output_type"], output.get("name")
        if kind[0] == "stream" and kind == (last.get("output_type"), last.get("name")):
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _smaller(png: str) -> str:
    """Returns a picture with at most 256 colours, unless that is no smaller."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    file = io.BytesIO()
    few = picture.quantize(256, dither=Image.Dither.NONE)
    few.save(file, format="PNG", optimize=True)
    return min(base64.b64encode(file.getvalue()).decode(), png, key=len)


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _code_cells(notebook: Notebook) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _shown_text(output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    texts = [output.get("text", ""), *(data[k] for k in data if k.startswith("text/"))]
    return "\n".join(map(_text, texts))


def _text(lines: str | Sequence[str]) -> str:
    """Returns a text that JSON may hold in lines."""
    return lines if isinstance(lines, str) else "".join(lines)


if __name__ == "__main__":
    main()
