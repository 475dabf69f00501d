"""Runs a notebook that OpenFL 1.6 ships, as it is but for the port, pictures and shell lines; prints its last model.

Arguments: the notebook and the director's port. The current folder is the workspace.
"""

import json
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

sys.path.insert(0, str(Path.cwd()))
notebook, port = Path(sys.argv[1]), sys.argv[2]
cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
for module in ("matplotlib", "matplotlib.pyplot", "matplotlib.pylab"):
    sys.modules[module] = MagicMock()  # nobody looks at pictures
names = {"__name__": "__main__"}
for source in cells:
    if source.startswith("%%"):
        continue
    lines = [line for line in source.replace("50049", port).splitlines() if not line.startswith(("%", "!"))]
    exec(compile("\n".join(lines), str(notebook), "exec"), names)
    if "Federation(" in source:
        while len([info for info in names["federation"].get_shard_registry().values() if info["is_online"]]) < 2:
            time.sleep(0.1)
experiment = names["fl_experiment"]
while experiment.get_experiment_status() in ("pending", "in_progress"):
    time.sleep(0.05)
result = {"status": experiment.get_experiment_status(), "model": experiment.get_last_model().weights.tolist()}
print(json.dumps(result))
