"""The child process that runs an assigner of a user's own, if the operator allowed that.

Started as ``python -m openfl_aio.director.assigner_child`` in the unpacked archive, with a JSON request as standard input;
its answer is one line of JSON. Names of OpenFL that the archive imports are ours here. What foreign code prints goes to
standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["assign", "main"]


def assign(function: Any, collaborators: list[str], rounds: int) -> dict[str, Any]:
    """Return the tasks, and who does which of them in each round, as plain values."""
    tasks: dict[str, dict[str, Any]] = {}
    table = []
    for number in range(rounds):
        # OpenFL spells it so
        given = function(list(collaborators), number, number_of_callaborators=len(collaborators))
        row = {}
        for name, chosen in given.items():
            row[str(name)] = [task.name for task in chosen]
            for task in chosen:
                tasks[task.name] = {
                    "name": task.name,
                    "function_name": task.function_name,
                    "task_type": task.task_type,
                    "apply_local": bool(task.apply_local),
                }
        table.append(row)
    return {"tasks": list(tasks.values()), "table": table}


def main() -> int:
    """Answer one request and return the exit code."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    sys.path.insert(0, os.getcwd())
    import_module("openfl_aio.compat.imports").install()
    function = pickle.loads(Path(request["file"]).read_bytes())
    json.dump(assign(function, request["collaborators"], request["rounds"]), answer)
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
