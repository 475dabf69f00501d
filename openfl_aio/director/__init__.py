"""A director: experiments and envoys, the service around them, and its calls over the network."""

from __future__ import annotations

from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import DirectorServicer

__all__ = ["Director", "DirectorClient", "DirectorServicer"]
