"""A notebook that OpenFL 1.6 ships, at our director: with our envoys the same model as with the real ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.compat_imports.tutorials import ARCHIVES, ELSEWHERE
from tests.interop_openfl.interactive_sites import Kind, Site
from tests.interop_openfl.processes import Programs, peer_python

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.cell(
        server="our director", client="our and real envoys, real frontend", must="a notebook of OpenFL gives the same"
    ),
]
FIND = "import importlib.util; print(importlib.util.find_spec('openfl').origin)"


def tutorial(name: str) -> Path:
    """Return the folder of a tutorial in the real environment."""
    done = subprocess.run([peer_python(), "-c", FIND], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip()).parents[1] / "openfl-tutorials" / "interactive_api" / name


def run(programs: Programs, folder: Path, envoys: Kind) -> list[float]:
    """Run the tutorial of the linear regression and return the weights that it found."""
    source = tutorial("numpy_linear_regression")
    folder.mkdir()
    site = Site(programs, folder)
    started = [site.director("ours")]
    for rank, name in enumerate(("one", "two"), 1):
        root = folder / name
        shutil.copytree(source / "envoy", root)
        config = yaml.safe_load((root / "envoy_config.yaml").read_text())
        config["shard_descriptor"]["params"]["rank"] = rank
        config["params"]["install_requirements"] = False
        (root / "envoy_config.yaml").write_text(yaml.safe_dump(config))
        arguments = ["start", "-n", name, "-dh", "localhost", "-dp", str(site.port), "--disable-tls"]
        if envoys == "ours":
            started.append(programs.ours("envoy", *arguments, "-ec", "envoy_config.yaml", cwd=root))
        else:
            started.append(
                programs.fx("envoy", *arguments, "-ec", "envoy_config.yaml", cwd=root, env={"PYTHONPATH": str(root)})
            )
    workspace = folder / "workspace"
    workspace.mkdir()
    shutil.copy(source / "workspace" / "custom_adapter.py", workspace)
    notebook = source / "workspace" / "LinReg.ipynb"
    said = programs.peer("tutorial_frontend", notebook, str(site.port), cwd=workspace).succeed(100)
    for program in started:
        program.kill()
    result = json.loads(said.splitlines()[-1])
    assert result["status"] == "finished"
    weights: list[float] = result["model"]
    return weights


def statements(folder: Path) -> set[str]:
    """Return the import statements of OpenFL's names in the notebooks and modules below ``folder``."""
    texts = [path.read_text() for path in folder.rglob("*.py")]
    for notebook in folder.rglob("*.ipynb"):
        texts += ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
    pattern = r"^[ \t]*((?:from openfl[\w.]* import (?:\([^)]*\)|[^\n#]*))|(?:import openfl[\w.]*))"
    found = {" ".join(text.split()) for source in texts for text in re.findall(pattern, source, re.MULTILINE)}
    return {text.replace("( ", "").replace("(", "").replace(")", "").strip(" ,") for text in found}


@pytest.mark.cell(server="our names of OpenFL", client="imports of tutorials", link="none", must="each is on our list")
def test_every_import_of_the_tutorials_is_on_our_list() -> None:
    tutorials = tutorial("")
    found = statements(tutorials) | statements(tutorials.parents[1] / "openfl-workspace")
    assert found == {*ARCHIVES, *ELSEWHERE}


@pytest.mark.full
def test_the_linear_regression(programs: Programs, tmp_path: Path) -> None:
    ours, real = (run(programs, tmp_path / kind, kind) for kind in ("ours", "real"))
    assert abs(real[0]) < 0.6, "the weights moved away from 1, where they began"
    np.testing.assert_allclose(ours, real, rtol=2e-6)
