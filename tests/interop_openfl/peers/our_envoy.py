"""Our envoy where the real OpenFL is installed too; the arguments are the envoy's."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[3])
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = ROOT

from openfl_aio.envoy.run import main  # noqa: E402

sys.exit(main())
