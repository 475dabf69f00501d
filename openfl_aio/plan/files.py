"""The other configuration files of OpenFL: director_config.yaml, envoy_config.yaml, cols.yaml and data.yaml.

They are read unchanged. Paths in them are relative to the folder of the file. Functions open files: call them at start,
or from a worker thread. Whatever is wrong is one `ConfigurationError` with file, line, key path and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeVar

from openfl_aio.config import DirectorConfig, Endpoint, EnvoyConfig, ProcessLimits, Quotas, TLSConfig, UploadRules
from openfl_aio.domain import check_name
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.document import Document
from openfl_aio.plan.plan import read_text
from openfl_aio.plan.sections import durability, upload_rules
from openfl_aio.plan.templates import check_class_path

__all__ = [
    "DirectorFile",
    "EnvoyFile",
    "load_collaborators",
    "load_data",
    "load_director_config",
    "load_director_file",
    "load_envoy_config",
]

Limited = TypeVar("Limited", ProcessLimits, Quotas)

_DIRECTOR_PORT: Final = 50051  # OpenFL's default
_DAY: Final = 24 * 60 * 60
_CERTIFICATE_KEYS: Final = ("root_certificate", "private_key", "certificate")
_DIRECTOR_SETTINGS: Final = frozenset(
    {
        "envoy_health_check_period",
        "install_requirements",
        "listen_host",
        "listen_ip",  # some of OpenFL's own files have it; 1.6 reads listen_host alone, and so do we
        "listen_port",
        "review_experiment",
        "sample_shape",
        "target_shape",
        # ours
        "allow_pickled_code",
        "allow_plaintext_anywhere",
        "crl",
        "deny_list",
        "durability",
        "envoys",
        "max_data_size",
        "max_share",
        "max_update_norm",
        "max_value",
        "operators",
        "process_limits",
        "public_host",
        "quotas",
        "users",
        "workspace",
    }
)
_ENVOY_PARAMS: Final = frozenset({"cuda_devices", "install_requirements", "process_limits", "review_experiment"})


@dataclass(frozen=True, slots=True)
class DirectorFile:
    """A director's file: its configuration, and what else it names.

    ``deny_list`` and ``crl`` are part of the configuration only if the file names certificates too.
    """

    path: Path
    config: DirectorConfig
    deny_list: Path | None = None
    crl: Path | None = None


@dataclass(frozen=True, slots=True)
class EnvoyFile:
    """An envoy's file. The name and the director come from the command line, so it becomes an `EnvoyConfig` with them.

    ``shard_path`` is the folder of the file: where the shard descriptor's module is found. ``install_requirements`` is
    whether the file asks for what is not done here: installing what an experiment says it needs, OpenFL's own default.
    ``process_limits`` (ours) are those of the processes that run experiments.
    """

    shard_template: str
    shard_path: Path
    shard_params: Mapping[str, Any] = field(default_factory=dict)
    cuda_devices: tuple[int, ...] = ()
    install_requirements: bool = False
    review_experiment: bool = False
    optional_plugin_components: Mapping[str, Any] = field(default_factory=dict)
    process_limits: ProcessLimits = field(default_factory=ProcessLimits)
    tls: TLSConfig | None = None

    def config(
        self, *, name: str, director: Endpoint, tls: TLSConfig | None = None, workspace: Path | None = None
    ) -> EnvoyConfig:
        """Return the configuration of the envoy ``name``; ``tls`` replaces what the file names."""
        return EnvoyConfig(
            name=name,
            director=director,
            shard_template=self.shard_template,
            shard_params=dict(self.shard_params),
            shard_path=self.shard_path,
            cuda_devices=self.cuda_devices,
            workspace=workspace,
            review_experiment=self.review_experiment,
            process_limits=self.process_limits,
            tls=tls or self.tls,
        )


def load_director_config(path: Path) -> DirectorConfig:
    """Return the configuration in a director_config.yaml."""
    return load_director_file(path).config


def load_director_file(path: Path) -> DirectorFile:
    """Read a director_config.yaml. Without ``settings.listen_port`` it is 50051."""
    document = _read(path, {"settings", *_CERTIFICATE_KEYS})
    if not document.mapping("settings"):
        raise document.error(("settings",), "missing; expected keys such as listen_host, listen_port and sample_shape")
    document.allow(("settings",), _DIRECTOR_SETTINGS)
    folder = path.absolute().parent

    def named(key: str) -> Path | None:
        name = document.string("settings", key, default="")
        return folder / name if name else None

    deny_list, crl = named("deny_list"), named("crl")
    tls = _tls(document, path)
    host = document.string("settings", "listen_host", default="localhost")
    port = document.integer("settings", "listen_port", default=_DIRECTOR_PORT, minimum=0, maximum=65535)
    config = DirectorConfig(
        listen=Endpoint(host=host, port=port),
        sample_shape=document.strings("settings", "sample_shape"),
        target_shape=document.strings("settings", "target_shape"),
        envoy_health_check_period=document.integer(
            "settings", "envoy_health_check_period", default=60, minimum=1, maximum=_DAY
        ),
        install_requirements=document.boolean("settings", "install_requirements", default=False),
        allow_pickled_code=document.boolean("settings", "allow_pickled_code", default=False),
        review_experiment=document.boolean("settings", "review_experiment", default=False),
        public_host=document.string("settings", "public_host", default="") or None,
        allow_plaintext_anywhere=document.boolean("settings", "allow_plaintext_anywhere", default=False),
        envoys=_names(document, "envoys"),
        users=_names(document, "users"),
        operators=_names(document, "operators") or (),
        workspace=named("workspace"),
        uploads=upload_rules(document, ("settings",), UploadRules()),
        durability=durability(document, ("settings",)),
        process_limits=_changed(document, ("settings", "process_limits"), DirectorConfig().process_limits),
        quotas=_changed(document, ("settings", "quotas"), Quotas()),
        tls=None if tls is None else tls.model_copy(update={"deny_list": deny_list, "crl": crl}),
    )
    return DirectorFile(path, config, deny_list=deny_list, crl=crl)


def load_envoy_config(path: Path) -> EnvoyFile:
    """Read an envoy_config.yaml. Only ``shard_descriptor.template`` must be there."""
    document = _read(path, {"params", "shard_descriptor", "optional_plugin_components", *_CERTIFICATE_KEYS})
    document.allow(("params",), _ENVOY_PARAMS)
    document.allow(("shard_descriptor",), {"template", "params"})
    template = document.string("shard_descriptor", "template")
    try:
        check_class_path(template, what="shard descriptor")
    except ConfigurationError as exc:
        raise document.error(("shard_descriptor", "template"), str(exc)) from None
    params = document.mapping("shard_descriptor", "params")
    for key in params:
        if not isinstance(key, str):
            raise document.error(("shard_descriptor", "params", str(key)), f"expected a parameter's name, got {key!r}")
    devices = range(len(document.items("params", "cuda_devices")))
    return EnvoyFile(
        shard_template=template,
        shard_path=path.absolute().parent,
        shard_params=params,
        cuda_devices=tuple(document.integer("params", "cuda_devices", index, minimum=0) for index in devices),
        install_requirements=document.boolean("params", "install_requirements", default=False),
        review_experiment=document.boolean("params", "review_experiment", default=False),
        optional_plugin_components=document.mapping("optional_plugin_components"),
        process_limits=_changed(document, ("params", "process_limits"), ProcessLimits()),
        tls=_tls(document, path),
    )


def load_collaborators(path: Path) -> tuple[str, ...]:
    """Return the names in a cols.yaml (``collaborators: [one, two]``), in order."""
    document = _read(path, {"collaborators"})
    names = document.strings("collaborators")
    for index, name in enumerate(names):
        try:
            check_name(name, what="collaborator")
        except ConfigurationError as exc:
            raise document.error(("collaborators", index), str(exc)) from None
        if name in names[:index]:
            raise document.error(("collaborators", index), f"expected each name once, got {name!r} again")
    return names


def load_data(path: Path) -> dict[str, str]:
    """Return collaborator name -> data path of a data.yaml: lines ``name,path``, empty lines and ``#`` comments.

    What a path means is the data loader's affair (OpenFL's examples put a shard number there), so it stays text, and may
    be empty. Blanks around name and path are dropped: with them no name is anybody's, and ``fx collaborator create``
    drops those of a path too.
    """
    out: dict[str, str] = {}
    for number, raw in enumerate(
        StringIO(read_text(path), newline=None), start=1
    ):  # as a file: a form feed ends no line
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, comma, value = (part.strip() for part in line.partition(","))
        if not comma or not name:
            raise ConfigurationError(f"{path}, line {number}: expected 'name,path', got {line[:80]!r}")
        if name in out:
            raise ConfigurationError(f"{path}, line {number}: expected each name once, got {name!r} again")
        out[name] = value
    return out


def _read(path: Path, known: set[str]) -> Document:
    document = Document.parse(read_text(path), source=str(path), empty_allowed=True)
    document.allow((), known)
    return document


def _names(document: Document, role: str) -> tuple[str, ...] | None:
    """Return the names on a list of the settings; one that is absent is None, one that is empty names nobody."""
    return None if document.get("settings", role) is None else document.strings("settings", role)


def _changed(document: Document, path: tuple[str, str], default: Limited) -> Limited:
    """Return ``default`` with what the mapping at ``path`` says; null takes a limit away."""
    written = document.mapping(*path)
    try:
        return type(default)(**{**dict(default), **{str(key): value for key, value in written.items()}})
    except ConfigurationError as exc:
        raise document.error(path, str(exc)) from None


def _tls(document: Document, path: Path) -> TLSConfig | None:
    """Return the certificate files that are named at the top of the file: all three or none."""
    if all(document.get(key) is None for key in _CERTIFICATE_KEYS):
        return None
    folder = path.absolute().parent
    ca, private_key, certificate = (folder / document.string(key) for key in _CERTIFICATE_KEYS)
    return TLSConfig(ca=ca, certificate=certificate, private_key=private_key)
