"""``python -m openfl_aio.collaborator``."""

from __future__ import annotations

import sys

from openfl_aio.collaborator.run import main

if __name__ == "__main__":
    sys.exit(main())
