"""``python -m openfl_aio.aggregator``."""

from __future__ import annotations

import sys

from openfl_aio.aggregator.run import main

if __name__ == "__main__":
    sys.exit(main())
