"""The ``openfl-aio`` command: parsing and printing, no logic."""

from __future__ import annotations

from openfl_aio.cli.app import app, main

__all__ = ["app", "main"]
