"""Which call may be made in which role, as one table, and who has which role. Decides only.

=====================================================  ==============================
call                                                   role
=====================================================  ==============================
``openfl.aggregator.Aggregator``,                      collaborator
``openfl_aio.v1.Tensors`` and ``Uploads``
``UpdateShardInfo``, ``UpdateEnvoyStatus``,            envoy
``WaitExperiment``, ``GetExperimentData``,
``SetExperimentFailed``
``SetNewExperiment``                                   user
``GetExperimentStatus``, ``GetExperimentsList``,       user, operator
``GetExperimentDescription``, ``GetTrainedModel``,
``GetMetricStream``, ``RemoveExperimentData``,
``GetDatasetInfo``, ``GetEnvoys``
=====================================================  ==============================

A role is had by the name in the certificate; without one, names are claims and nobody has less than another. That a
message names nobody but its caller is `openfl_aio.transport.identity.check_speaks_for`; that a collaborator takes part
in this very federation, and whose an experiment is, is known where those are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from openfl_aio.errors import AuthenticationError, AuthorizationError, OpenFLAioError
from openfl_aio.transport.identity import Caller

__all__ = ["CALLS", "Role", "Roles"]


class Role(Enum):
    """As what somebody calls."""

    COLLABORATOR = "collaborator"
    ENVOY = "envoy"
    USER = "user"
    OPERATOR = "operator"


AGGREGATOR: Final = "/openfl.aggregator.Aggregator/"
TENSORS: Final = "/openfl_aio.v1.Tensors/"
UPLOADS: Final = "/openfl_aio.v1.Uploads/"
DIRECTOR: Final = "/openfl.director.Director/"

_COLLABORATOR: Final = frozenset({Role.COLLABORATOR})
_ENVOY: Final = frozenset({Role.ENVOY})
_FRONTEND: Final = frozenset({Role.USER, Role.OPERATOR})

CALLS: Final[Mapping[str, frozenset[Role]]] = MappingProxyType(
    {
        AGGREGATOR + "GetTasks": _COLLABORATOR,
        AGGREGATOR + "GetAggregatedTensor": _COLLABORATOR,
        AGGREGATOR + "SendLocalTaskResults": _COLLABORATOR,
        AGGREGATOR + "GetMetricStream": _COLLABORATOR,
        AGGREGATOR + "GetTrainedModel": _COLLABORATOR,
        AGGREGATOR + "GetExperimentDescription": _COLLABORATOR,
        AGGREGATOR + "Ping": _COLLABORATOR,
        AGGREGATOR + "InteropRelay": _COLLABORATOR,
        TENSORS + "GetTensor": _COLLABORATOR,
        TENSORS + "GetTensors": _COLLABORATOR,
        UPLOADS + "GetOffset": _COLLABORATOR,
        DIRECTOR + "UpdateShardInfo": _ENVOY,
        DIRECTOR + "UpdateEnvoyStatus": _ENVOY,
        DIRECTOR + "WaitExperiment": _ENVOY,
        DIRECTOR + "GetExperimentData": _ENVOY,
        DIRECTOR + "SetExperimentFailed": _ENVOY,
        DIRECTOR + "SetNewExperiment": frozenset({Role.USER}),
        DIRECTOR + "GetExperimentStatus": _FRONTEND,
        DIRECTOR + "GetExperimentsList": _FRONTEND,
        DIRECTOR + "GetExperimentDescription": _FRONTEND,
        DIRECTOR + "GetTrainedModel": _FRONTEND,
        DIRECTOR + "GetMetricStream": _FRONTEND,
        DIRECTOR + "RemoveExperimentData": _FRONTEND,
        DIRECTOR + "GetDatasetInfo": _FRONTEND,
        DIRECTOR + "GetEnvoys": _FRONTEND,
    }
)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who has which role at one server, by the names in certificates.

    ``envoys`` and ``users``: a list that is None means everybody who is not on the other one. ``operators`` have their
    role beside what they are otherwise. ``collaborators`` None means the envoys: at a director they run the collaborators.
    """

    collaborators: Collection[str] | None = None
    envoys: Collection[str] | None = None
    users: Collection[str] | None = None
    operators: Collection[str] = ()

    def of(self, name: str) -> frozenset[Role]:
        """Return the roles of who proved to be ``name``."""
        envoy = name in self.envoys if self.envoys is not None else name not in (self.users or ())
        user = name in self.users if self.users is not None else name not in (self.envoys or ())
        has = {
            Role.ENVOY: envoy,
            Role.USER: user,
            Role.OPERATOR: name in self.operators,
            Role.COLLABORATOR: envoy if self.collaborators is None else name in self.collaborators,
        }
        return frozenset(role for role, true in has.items() if true)

    def check(self, path: str, caller: Caller) -> None:
        """Raise unless ``caller`` has a role in which the call ``path`` may be made; a call without a row is nobody's.

        Raises `AuthenticationError` for a collaborator's call, the one refusal at which a collaborator of OpenFL 1.6
        ends instead of asking again for ever, and `AuthorizationError` for any other.
        """
        allowed = CALLS.get(path, frozenset())
        if not caller.authenticated or allowed & self.of(caller.name):
            return
        kind: type[OpenFLAioError] = AuthenticationError if allowed == _COLLABORATOR else AuthorizationError
        wanted = " or ".join(sorted(role.value for role in allowed)) or "nobody"
        raise kind(f"{caller.name!r} may not call {path}: that is for {wanted}")
