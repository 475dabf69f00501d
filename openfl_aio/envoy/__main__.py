"""``python -m openfl_aio.envoy``."""

from __future__ import annotations

import sys

from openfl_aio.envoy.run import main

if __name__ == "__main__":
    sys.exit(main())
