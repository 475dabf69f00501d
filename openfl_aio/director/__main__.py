"""``python -m openfl_aio.director``."""

from __future__ import annotations

import sys

from openfl_aio.director.run import main

if __name__ == "__main__":
    sys.exit(main())
