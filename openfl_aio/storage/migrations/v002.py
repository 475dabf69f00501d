"""Version 2: uploads are files that describe themselves."""

from __future__ import annotations

from typing import Final

__all__ = ["STATEMENTS"]

STATEMENTS: Final = ("DROP TABLE uploads",)
