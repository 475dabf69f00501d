"""OpenFL 1.6's import names, for the archives of its interactive frontend: in an envoy's child process only.

Such an archive holds pickles and modules that import ``openfl.interface.interactive_api.experiment`` and others.
`install` makes those names resolve to this package, so that the archive runs where OpenFL is not installed.
"""

from __future__ import annotations

from openfl_aio.compat.imports.finder import install, uninstall

__all__ = ["install", "uninstall"]
