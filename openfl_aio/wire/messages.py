"""The messages and services of OpenFL 1.6 by their own names.

What OpenFL keeps in the unnamed protobuf package is here directly; the packages ``openfl.aggregator`` and
``openfl.director`` are the submodules `aggregator` and `director`, with their service bases and stubs. `v1` is the
package ``openfl_aio.v1``: what our own peers say to each other beyond OpenFL's services.
"""

from __future__ import annotations

from openfl_aio.wire._generated import (
    CollaboratorDescription,
    DataStream,
    DownloadStatus,
    DownloadStatuses,
    ExperimentDescription,
    MetadataProto,
    ModelProto,
    NamedTensor,
    TaskDescription,
)
from openfl_aio.wire._generated.openfl import aggregator, director
from openfl_aio.wire._generated.openfl_aio import v1

__all__ = [
    "CollaboratorDescription",
    "DataStream",
    "DownloadStatus",
    "DownloadStatuses",
    "ExperimentDescription",
    "MetadataProto",
    "ModelProto",
    "NamedTensor",
    "TaskDescription",
    "aggregator",
    "director",
    "v1",
]
