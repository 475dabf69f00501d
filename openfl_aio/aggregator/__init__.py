"""One federation's aggregator: rounds, the service around them, and its calls over the network."""

from __future__ import annotations

from openfl_aio.aggregator.api import AggregatorAPI
from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.rounds import Phase
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer

__all__ = ["Aggregator", "AggregatorAPI", "AggregatorClient", "AggregatorServicer", "Phase"]
