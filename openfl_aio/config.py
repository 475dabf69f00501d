"""Validated, frozen configuration objects. No file and no environment is read here.

Every field that is wrong is named in one `ConfigurationError`. Times are seconds, sizes bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from openfl_aio.domain import COMMON_NAME_PATTERN, Task, TaskKind, check_name
from openfl_aio.errors import ConfigurationError

__all__ = [
    "DURABILITIES",
    "AggregatorConfig",
    "AssignerConfig",
    "CollaboratorConfig",
    "DirectorConfig",
    "Durability",
    "Endpoint",
    "EnvoyConfig",
    "Frozen",
    "Limits",
    "ProcessLimits",
    "Quotas",
    "RetryPolicy",
    "StragglerConfig",
    "TLSConfig",
    "TaskGroup",
    "Timeouts",
    "UploadRules",
    "default_tasks",
]

MIB = 1024 * 1024


class Frozen(BaseModel):
    """Base of configuration objects: immutable, strict about unknown names, errors as `ConfigurationError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as exc:
            raise ConfigurationError(explain(exc, type(self).__name__)) from None


def explain(exc: ValidationError, subject: str) -> str:
    """Say in one line which fields of ``subject`` are wrong, what was expected and what came."""
    parts = []
    for error in exc.errors(include_url=False):
        where = ".".join(str(part) for part in error["loc"]) or "(whole)"
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            parts.append(f"{where}: unknown key")
        elif error["type"] == "missing":
            parts.append(f"{where}: missing")
        elif error["type"] == "value_error":
            parts.append(f"{where}: {message}")
        else:
            parts.append(f"{where}: {message[:1].lower()}{message[1:]}, got {error['input']!r}")
    return f"{subject}: " + "; ".join(parts)


class Endpoint(Frozen):
    """A host and a port. Port 0 asks the system for a free one."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TLSConfig(Frozen):
    """Paths of the PEM files for mutual TLS. Absence of the whole object means plaintext.

    A client may go without certificate and key, to a server that does not require them. ``ca`` may hold several
    certificates: each is believed, as is needed while one authority follows another.

    ``deny_list`` and ``crl`` (see `openfl_aio.pki.revocation`) name certificates that are believed no longer. A server
    reads all these files again within two seconds of a change, a client at its next call.
    """

    ca: Path
    certificate: Path | None = None
    private_key: Path | None = None
    require_client_certificate: bool = True
    deny_list: Path | None = None
    crl: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.certificate is None) is not (self.private_key is None):
            raise ValueError("certificate and private_key: expected both or neither, got one")
        return self


class Limits(Frozen):
    """What a peer may make this side keep or do. Checked before memory is spent; times are seconds, sizes bytes.

    Whoever goes beyond a rate or a count is told why (GOAWAY with ENHANCE_YOUR_CALM, RESOURCE_EXHAUSTED, or
    REFUSED_STREAM), and others go on. A rate is a token bucket: ``..._burst`` at once, ``..._rate`` a second afterwards.
    """

    # messages
    chunk_bytes: int = Field(default=2 * MIB, ge=1)
    max_request_bytes: int = Field(default=4 * MIB + 64 * 1024, ge=1)  # one message to a server, but for submissions
    max_message_bytes: int = Field(default=2048 * MIB - 1, ge=1)  # one message that may hold a model
    max_upload_bytes: int | None = Field(default=None, ge=1)  # None: four times the model and 1 MiB
    max_tensor_bytes: int = Field(default=65_536 * MIB, ge=1)  # a tensor that comes in parts
    max_tensors: int = Field(default=10_000, ge=1)
    max_tags: int = Field(default=64, ge=1)
    max_metadata: int = Field(default=64, ge=1)
    # of a director: online and offline ones; beyond them who has been offline for longest is forgotten
    max_envoys: int = Field(default=2_000, ge=1)
    # archives
    max_archive_bytes: int = Field(default=256 * MIB, ge=1)
    max_archive_files: int = Field(default=10_000, ge=1)
    max_unpacked_bytes: int = Field(default=256 * MIB, ge=1)
    max_compression_ratio: int = Field(default=100, ge=1)
    # connections of a server
    max_connections: int = Field(default=1_000, ge=1)
    max_connections_per_certificate: int = Field(default=64, ge=1)
    max_unauthenticated: int = Field(default=128, ge=1)  # still in the handshake, or before their first SETTINGS
    accept_backlog: int = Field(default=1_024, ge=1)
    # streams
    max_streams: int = Field(default=100, ge=1)  # calls of one connection, cancelled ones included until they ended
    max_uploads: int = Field(default=64, ge=1)  # read at once by a server; others wait for their turn
    max_uploads_per_connection: int = Field(default=8, ge=1)
    # uploads that were cut, of one federation; they lie on the disk
    max_suspended_uploads: int = Field(default=64, ge=1)
    max_suspended_bytes: int = Field(default=16_384 * MIB, ge=1)
    suspended_seconds: float = Field(default=60.0, ge=0)  # 0: none is kept, what was cut comes as a whole again
    max_header_bytes: int = Field(default=16 * 1024, ge=1)
    max_continuations: int = Field(default=64, ge=1)
    # flow control
    stream_window: int = Field(default=65_535, ge=65_535, le=2**31 - 1)  # what a peer may send before it is read
    max_stream_window: int = Field(default=8 * MIB, ge=65_535, le=2**31 - 1)  # ... once it turns out to be read
    connection_window: int = Field(default=1 * MIB, ge=65_535, le=2**31 - 1)
    max_connection_window: int = Field(default=16 * MIB, ge=65_535, le=2**31 - 1)
    window_pool_bytes: int = Field(default=32 * MIB, ge=0)  # what all windows of a server may have beyond the first
    max_receiving_bytes: int = Field(default=24 * MIB, ge=1)  # large messages under way, on all connections of a server
    max_frame_bytes: int = Field(default=4 * MIB, ge=16_384, le=2**24 - 1)
    max_queued_bytes: int = Field(
        default=1 * MIB, ge=1
    )  # where the transport copies (TLS, uvloop): written and not taken
    # rates of frames on one connection
    reset_burst: int = Field(default=200, ge=1)  # RST_STREAM
    reset_rate: float = Field(default=33.0, gt=0)
    control_burst: int = Field(default=200, ge=1)  # PING, SETTINGS, PRIORITY, unknown and misplaced frames
    control_rate: float = Field(default=100.0, gt=0)
    small_frame_burst: int = Field(default=2_000, ge=1)  # DATA of few bytes that ends nothing, WINDOW_UPDATE
    small_frame_rate: float = Field(default=1_000.0, gt=0)
    # deadlines
    handshake_seconds: float = Field(default=5.0, gt=0)
    preface_seconds: float = Field(default=5.0, gt=0)
    header_seconds: float = Field(default=5.0, gt=0)
    progress_seconds: float = Field(default=30.0, gt=0)  # of a message half received, or an answer half sent
    idle_seconds: float = Field(default=300.0, gt=0)  # of a connection without a call
    # a peer that is silent for so long is asked with PING: by a server always, by a client while calls are under way
    keepalive_seconds: float = Field(default=60.0, gt=0)
    keepalive_timeout: float = Field(default=20.0, gt=0)  # ... and the connection ends so long after that


class ProcessLimits(Frozen):
    """What a child process that runs code of others may use, together with all that it starts. None: as much as there is.

    Passing one ends all of them, and the task fails with a sentence that names it. There is no limit of memory unless one is
    set: it is measured, not reserved, so that GPU frameworks, which reserve far more than they use, work with one.
    ``processes`` counts threads too; the kernel enforces it (not for root) above what the user runs already.

    ``environment`` names variables that the child gets beside the usual ones, ``*`` at the end standing for anything; all
    others, where tokens and passwords are, it does not. ``run_as`` is a user of this machine, for an envoy that runs as root:
    without it the child may read every file that the envoy may, its key too.
    """

    memory_bytes: int | None = Field(default=None, ge=1)
    cpu_seconds: float | None = Field(default=None, gt=0)
    processes: int | None = Field(default=4_096, ge=1)
    open_files: int | None = Field(default=65_536, ge=16)  # of each process
    file_bytes: int | None = Field(default=None, ge=1)  # of each file
    disk_bytes: int | None = Field(default=65_536 * MIB, ge=1)  # of the run's own folders
    task_seconds: float | None = Field(default=86_400.0, gt=0)  # of each task, and of loading
    environment: tuple[str, ...] = ()
    run_as: str | None = None


class Quotas(Frozen):
    """What one user may have at a director. None: no limit. Beyond one a submission is RESOURCE_EXHAUSTED at once."""

    experiments: int | None = Field(default=1_000, ge=1)  # ended ones too, until they are removed
    active: int | None = Field(default=64, ge=1)  # pending or in progress
    submissions: int | None = Field(default=16, ge=1)  # being received; frontends in plaintext are one user
    disk_bytes: int | None = Field(default=65_536 * MIB, ge=1)  # of archives and models


class Timeouts(Frozen):
    """How long things may take, in seconds."""

    connect: float = Field(default=10.0, gt=0)
    long_poll: float = Field(default=45.0, gt=0)
    drain: float = Field(default=25.0, ge=0)


class RetryPolicy(Frozen):
    """Exponential backoff with full jitter: the n-th pause is uniform in [0, min(max_delay, first_delay * multiplier**n)].

    ``max_elapsed`` bounds the time from the first failure of a call on; ``None`` retries for ever.
    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_delay: float = Field(default=0.2, gt=0)
    max_delay: float = Field(default=10.0, gt=0)
    multiplier: float = Field(default=2.0, ge=1)
    max_elapsed: float | None = Field(default=600.0, gt=0)


def default_tasks() -> tuple[Task, ...]:
    """Return the three tasks of an OpenFL round, in order: validate the global model, train, validate the trained model."""
    return (
        Task("aggregated_model_validation", "validate", TaskKind.VALIDATE, apply_local=False),
        Task("train", "train", TaskKind.TRAIN, apply_local=False),
        Task("locally_tuned_model_validation", "validate", TaskKind.VALIDATE, apply_local=True),
    )


class TaskGroup(Frozen):
    """A share of the collaborators and what they do. ``percentage`` is for random, ``collaborators`` for static grouping."""

    name: str = "default"
    tasks: tuple[str, ...]
    percentage: float | None = Field(default=None, ge=0, le=1)
    collaborators: tuple[str, ...] | None = None


class AssignerConfig(Frozen):
    """Who does which task in which round. Draws are seeded so that a restart repeats them.

    ``table`` is for the kind of that name: for each round the names of each collaborator's tasks, in order; whoever is not
    in a round's mapping rests.
    """

    kind: Literal["random_grouped", "static_grouped", "table"] = "random_grouped"
    groups: tuple[TaskGroup, ...] = ()  # empty: one group with every task
    seed: int = 0
    table: tuple[dict[str, tuple[str, ...]], ...] = ()


class StragglerConfig(Frozen):
    """When a round closes although somebody is missing.

    ``wait_for_all``: never. ``cutoff``: after ``cutoff_seconds`` from the first task handed out, with ``minimum_reporting``.
    ``percentage``: once that share of collaborators is done, and ``minimum_reporting``. With 0 seconds, or a share of 0,
    the ``minimum_reporting`` first close every round.
    """

    kind: Literal["wait_for_all", "cutoff", "percentage"] = "wait_for_all"
    cutoff_seconds: float | None = Field(default=None, ge=0)
    percentage: float = Field(default=1.0, ge=0, le=1)
    minimum_reporting: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "cutoff" and self.cutoff_seconds is None:
            raise ValueError("cutoff_seconds: missing, the policy 'cutoff' needs it")
        return self


Durability = Literal["process", "power", "memory"]
"""What survives of results that were acknowledged, and of the models that were made.

``process``: everything, whenever the process is killed. The loss of power may take the last seconds of both. A round's
model is written while the next round runs.
``power``: everything, also then. An answer to an upload waits until the disk has all its bytes, and the next round
begins once the disk has the model: on an ordinary disk that is a second for some hundred MiB, each.
``memory``: nothing. No file is written, and uploads stay in memory until their round is aggregated.
"""

DURABILITIES: Final[tuple[Durability, ...]] = get_args(Durability)


class UploadRules(Frozen):
    """What the values of an upload may be; whatever is beyond is refused before it counts.

    ``max_data_size``: most samples that a result may claim. The default is above any data set that one site trains on;
    what a lie below it is worth is bounded by ``max_share``.
    ``max_value``: largest magnitude in a trained tensor. From the default on, float32 cannot hold the square of a value,
    so norms, variances and optimizers overflow; it is also more than any 64-bit counter in a model.
    ``max_update_norm``: largest L2 norm of a result minus the global model, over all tensors of the model; None is no
    bound. Source: Sun et al., "Can You Really Backdoor Federated Learning?", 2019, who scale down what is refused here.
    ``max_share``: largest share of one collaborator in an average. Weights above are cut to the largest one that keeps
    it, or made equal where there are too few collaborators for that. Source: Portnoy, Tirosh and Hendler, "Towards
    Federated Learning With Byzantine-Robust Client Weighting", 2022.
    """

    max_data_size: int = Field(default=100_000_000, ge=1, le=2**31 - 1)
    max_value: float = Field(default=2.0**64, gt=0)
    max_update_norm: float | None = Field(default=None, gt=0)
    max_share: float = Field(default=1.0, gt=0, le=1)


class AggregatorConfig(Frozen):
    """One federation: who takes part, for how many rounds, and by which rules."""

    uuid: str = "aggregator_federation"
    federation_uuid: str = "federation"
    aliases: tuple[str, ...] = ()  # other federation_uuids: they make the aggregator's uuid `aggregator_<alias>`
    collaborators: tuple[str, ...] = Field(min_length=1)
    rounds: int = Field(ge=1)
    tasks: tuple[Task, ...] = Field(default_factory=default_tasks)
    assigner: AssignerConfig = AssignerConfig()
    stragglers: StragglerConfig = StragglerConfig()
    aggregation: str = "weighted_average"
    task_aggregation: dict[str, str] = Field(default_factory=dict)  # task name -> function, where it differs
    pipeline: str = "no_compression"
    store_rounds: int = Field(default=2, ge=2)
    uploads: UploadRules = UploadRules()
    durability: Durability = "process"
    single_col_cert_common_name: str = ""
    write_logs: bool = True
    workspace: Path | None = None  # journal, database and models; None keeps everything in memory
    best_model_path: Path | None = None
    last_model_path: Path | None = None
    listen: Endpoint | None = None  # None: mounted by somebody else, or used in process
    tls: TLSConfig | None = None
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()

    @field_validator("uuid")
    @classmethod
    def _uuid(cls, value: str) -> str:
        # a 1.6 collaborator recognises the aggregator's tensors by this word in their origin
        if "aggregator" not in value:
            raise ValueError(f"must contain 'aggregator', got {value!r}")
        return value

    @field_validator("collaborators")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            check_name(name, what="collaborator")
        if len(set(value)) != len(value):
            raise ValueError(f"names a collaborator twice: {list(value)!r}")
        return value


class CollaboratorConfig(Frozen):
    """One participant of one federation."""

    name: str
    aggregator_uuid: str
    federation_uuid: str
    endpoint: Endpoint = Endpoint()
    delta_updates: bool = False
    pipeline: str = "no_compression"
    store_rounds: int = Field(default=1, ge=1)
    single_col_cert_common_name: str = ""
    tls: TLSConfig | None = None
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, what="collaborator")


class DirectorConfig(Frozen):
    """A director: what data it accepts, where it listens, where it keeps things."""

    listen: Endpoint = Endpoint()
    sample_shape: tuple[str, ...] = ()
    target_shape: tuple[str, ...] = ()
    envoy_health_check_period: int = Field(default=60, ge=1)
    install_requirements: bool = False
    allow_pickled_code: bool = False  # run assigners and aggregation functions of users' own, in child processes
    review_experiment: bool = False  # run none that was not reviewed: needs a review function
    public_host: str | None = None  # what served plans name; None: what the frontend wrote
    allow_plaintext_anywhere: bool = False
    workspace: Path | None = None  # None: a temporary directory that ends with the director
    uploads: UploadRules = UploadRules()  # where an experiment's plan does not say otherwise
    durability: Durability = "process"  # of all experiments, whatever their plans say
    # names in certificates, of which envoys and users exclude each other where one of the lists is None: everybody else
    envoys: tuple[str, ...] | None = None  # who may register and work
    users: tuple[str, ...] | None = None  # who may submit experiments, and follow and remove them
    operators: tuple[str, ...] = ()  # who may follow and remove the experiments of all users
    quotas: Quotas = Quotas()
    # of a user's own assigner; ``task_seconds`` for all rounds together
    process_limits: ProcessLimits = ProcessLimits(
        memory_bytes=1024 * MIB,
        cpu_seconds=60,
        processes=256,
        open_files=256,
        file_bytes=64 * MIB,
        disk_bytes=256 * MIB,
        task_seconds=60,
    )
    tls: TLSConfig | None = None
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()

    @field_validator("envoys", "users", "operators")
    @classmethod
    def _names(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if not COMMON_NAME_PATTERN.fullmatch(name):
                raise ValueError(f"expected common names of certificates (printable, 1 to 64 characters), got {name!r}")
        return value


class EnvoyConfig(Frozen):
    """An envoy: its name, its director, its shard and how it runs experiments."""

    name: str
    director: Endpoint
    shard_template: str
    shard_params: dict[str, Any] = Field(default_factory=dict)
    shard_path: Path | None = None  # folder that is importable when the template is resolved
    cuda_devices: tuple[int, ...] = ()
    review_experiment: bool = False  # run none that was not reviewed: needs a review function
    real_openfl: bool = False  # archives of OpenFL's frontend import OpenFL itself, which is installed here
    workspace: Path | None = None
    process_limits: ProcessLimits = ProcessLimits()
    health_check_period: float = Field(default=60.0, gt=0)
    tls: TLSConfig | None = None
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy(max_elapsed=None)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, what="envoy")
