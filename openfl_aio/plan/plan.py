"""plan.yaml: the federation that all its members agree on, because each derives the same names from the same text.

The uuids of a federation are never sent: every member reads the plan, merges OpenFL's default sections into it, and
hashes the result. So merging and hashing follow OpenFL 1.6 exactly::

    hash             sha384 of the merged plan as PyYAML writes it, before `auto` values are filled in
    federation_uuid  <file name>_<first 8 hex digits>           aggregator_uuid  aggregator_<federation_uuid>
    agg_addr auto    the environment's FQDN, else this host's name
    agg_port auto    49152 + (first 8 hex digits of the hash with agg_addr filled in) mod 11847

Other releases have other default sections (`releases`), so a plan that refers to some is another federation to each.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha384
from pathlib import Path
from typing import Any, Final, Self

from openfl_aio.config import (
    AggregatorConfig,
    AssignerConfig,
    CollaboratorConfig,
    Durability,
    Endpoint,
    Limits,
    RetryPolicy,
    StragglerConfig,
    Timeouts,
    TLSConfig,
    UploadRules,
)
from openfl_aio.domain import Task
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan import sections
from openfl_aio.plan.document import Document
from openfl_aio.plan.interactive import InteractiveObjects, interactive_objects
from openfl_aio.plan.releases import DEFAULTS, RELEASES, default_section, guess_release, keys_of
from openfl_aio.plan.templates import DATA_LOADERS, TASK_RUNNERS, check_class_path

__all__ = ["Plan", "TemplateRef"]

_AUTO: Final = "auto"
_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 60999


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """A class that a participant imports, and what its constructor gets."""

    template: str
    settings: Mapping[str, Any]


class Plan:
    """One parsed plan. Never changes; `rewritten` returns another.

    ``name`` is the file name that goes into the uuids, ``source`` what errors call the text.
    Wrong values raise `ConfigurationError` with source, line, key path and what was expected: the outline (sections,
    keys, rounds, network) when the plan is read, the rest when it is asked for. ``release`` is the release of OpenFL
    whose default sections were merged into it. ``experiment`` is the one in whose archive it came, if `of` named it.
    """

    def __init__(
        self, document: Document, *, name: str, release: str = "1.6", written: dict[Any, Any] | None = None
    ) -> None:
        self.name = name
        self.experiment = ""
        self.release = release
        self._document = document
        self._written = written  # the values before the default sections were merged, if it refers to any
        sections.check_outline(document)
        self.rounds: int = document.integer("aggregator", "settings", "rounds_to_train", minimum=1)
        self.hash: str = _hash(document)
        self.federation_uuid: str = f"{name}_{self.hash[:8]}"
        self.aggregator_uuid: str = f"aggregator_{self.federation_uuid}"
        self._address = document.string("network", "settings", "agg_addr")
        self._port = _port(document)

    @classmethod
    def parse(
        cls, text: str | bytes, *, name: str = "plan.yaml", source: str = "plan.yaml", release: str | None = None
    ) -> Self:
        """Read a plan. Default sections that it refers to are those of ``release``, no file is opened.

        Without ``release`` it is the one that the plan's keys tell, OpenFL 1.6 if they tell nothing.
        A plan of the greatest size allowed takes seconds to read: what a peer sent is read in a worker thread.
        """
        document = Document.parse(_decoded(text, source) if isinstance(text, bytes) else text, source=source)
        if release is None:
            release = guess_release(document.data)
        sections_ = document.data.values()
        refers = any(isinstance(section, dict) and "defaults" in section for section in sections_)
        written = deepcopy(document.data) if refers else None
        _merge_defaults(document, release)
        return cls(document, name=name, release=release, written=written)

    @classmethod
    def load(cls, path: Path, *, release: str | None = None) -> Self:
        """Read the plan in the file at ``path``; its name goes into the uuids."""
        return cls.parse(read_text(path), name=path.name, source=str(path), release=release)

    def __repr__(self) -> str:
        return f"<Plan {self.federation_uuid} rounds={self.rounds}>"

    def dump(self) -> str:
        """Return the text that, read under the same name, gives an equal plan with the same uuids."""
        return self._document.dump()

    def rewritten(
        self,
        *,
        agg_addr: str | None = None,
        agg_port: int | None = None,
        hash_salt: str | None = None,
        tls: bool | None = None,
    ) -> Plan:
        """Return the plan with other network settings; None keeps a value. A new salt gives new uuids."""
        data = self._document.data
        given = {"agg_addr": agg_addr, "agg_port": agg_port, "hash_salt": hash_salt, "tls": tls}
        # another release's key for TLS would contradict
        old = () if tls is None else keys_of("network", "tls")
        settings = {key: value for key, value in data["network"]["settings"].items() if key not in old}
        settings.update({key: value for key, value in given.items() if value is not None})
        network = {**data["network"], "settings": settings}
        return Plan(self._document.with_data({**data, "network": network}), name=self.name, release=self.release)

    def of(self, experiment: str) -> Plan:
        """Return the same plan as that of ``experiment``."""
        named = copy(self)
        named.experiment = experiment
        return named

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        """The federation's uuids in the eyes of other releases of OpenFL that read the same text.

        A release that has not all the sections the plan refers to cannot read it and has no name for it.
        """
        found: list[str] = []
        for release in RELEASES:
            if self._written is None or release == self.release:
                continue
            sections_ = self._written.values()
            if any(section.get("defaults", None) not in (None, *DEFAULTS[release]) for section in sections_):
                continue
            document = self._document.with_data(deepcopy(self._written))
            _merge_defaults(document, release)
            uuid = f"{self.name}_{_hash(document)[:8]}"
            if uuid not in (self.federation_uuid, *found):
                found.append(uuid)
        return tuple(found)

    # -- network

    @cached_property
    def endpoint(self) -> Endpoint:
        """Where the plan says the aggregator is. `auto` asks the environment and, failing that, the resolver: it may block."""
        host = self._address if self._address != _AUTO else os.environ.get("FQDN") or socket.getfqdn()
        port = self._port
        if port is None:
            digest = _hash(self.rewritten(agg_addr=host)._document)
            port = int(digest[:8], 16) % (_LAST_PORT - _FIRST_PORT) + _FIRST_PORT
        return Endpoint(host=host, port=port)

    @property
    def tls(self) -> bool:
        """Whether the plan asks for mutual TLS; it does unless it says otherwise."""
        return sections.switch(self._document, "network", "tls", default=True)[0]

    @property
    def tls_key(self) -> str:
        """The key path of what the plan says of TLS, which releases call differently."""
        return f"network.settings.{sections.switch(self._document, 'network', 'tls', default=True)[1]}"

    @property
    def require_client_certificate(self) -> bool:
        """Whether collaborators prove who they are."""
        return sections.switch(self._document, "network", "require_client_auth", default=True)[0]

    @property
    def cert_folder(self) -> str:
        """The folder of the certificates, relative to the workspace."""
        return self._document.string("network", "settings", "cert_folder", default="cert")

    @property
    def deny_list(self) -> str | None:
        """The file of certificates that the aggregator denies, relative to the workspace; ours, not OpenFL's."""
        return self._document.string("network", "settings", "deny_list", default="") or None

    @property
    def crl(self) -> str | None:
        """The CA's revocation list for the aggregator, relative to the workspace; ours, not OpenFL's."""
        return self._document.string("network", "settings", "crl", default="") or None

    # -- what is done

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks in the order of a round; empty for a plan of OpenFL's interactive frontend, which keeps them elsewhere."""
        return sections.tasks(self._document)

    @cached_property
    def task_aggregation(self) -> dict[str, str]:
        """How we write the aggregation function of each task that names one."""
        return sections.task_aggregation(self._document)

    @cached_property
    def assigner(self) -> AssignerConfig:
        """Who does what. Without the section: everybody every task."""
        return sections.assigner(self._document)

    @cached_property
    def stragglers(self) -> StragglerConfig:
        """When a round closes early. Without the section: never."""
        return sections.stragglers(self._document)

    @cached_property
    def pipeline(self) -> str:
        """The compression pipeline as `openfl_aio.tensors.pipelines.get_pipeline` reads it."""
        return sections.pipeline(self._document)

    @property
    def delta_updates(self) -> bool:
        """Whether collaborators send and fetch differences where they can."""
        return sections.switch(self._document, "collaborator", "delta_updates", default=False)[0]

    @property
    def opt_treatment(self) -> str | None:
        """What becomes of a collaborator's optimizer between rounds: RESET, CONTINUE_LOCAL or CONTINUE_GLOBAL.

        None if the plan does not say: RESET to OpenFL's runners, and to ours whatever they say themselves.
        """
        return sections.opt_treatment(self._document)

    @property
    def task_runner(self) -> TemplateRef:
        """The class that does the tasks at a collaborator."""
        return self._template("task_runner", default=TASK_RUNNERS.template_of("core_task_runner"))

    @property
    def interactive(self) -> InteractiveObjects | None:
        """The objects in the archive of a plan of OpenFL's interactive frontend; None for any other plan."""
        return interactive_objects(self._document)

    @property
    def data_loader(self) -> TemplateRef:
        """The class that loads a collaborator's data."""
        return self._template("data_loader", default=DATA_LOADERS.template_of("data_loader"))

    @property
    def task_settings(self) -> dict[str, Mapping[str, Any]]:
        """The keyword arguments of each task's function."""
        return {task.name: self._document.mapping("tasks", task.name, "kwargs") for task in self.tasks}

    @property
    def ignored(self) -> tuple[str, ...]:
        """Key paths that OpenFL obeys and that have no effect here: worth a warning."""
        return sections.ignored(self._document)

    # -- files

    @property
    def init_model_path(self) -> str | None:
        """``aggregator.settings.init_state_path`` as written, relative to the workspace."""
        return self._document.string("aggregator", "settings", "init_state_path", default="") or None

    def aggregator_config(
        self,
        *,
        collaborators: Sequence[str],
        tasks: Sequence[Task] | None = None,
        assigner: AssignerConfig | None = None,
        task_aggregation: Mapping[str, str] | None = None,
        workspace: Path | None = None,
        models_folder: Path | None = None,
        listen: Endpoint | None = None,
        tls: TLSConfig | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        uploads: UploadRules | None = None,
        durability: Durability | None = None,
    ) -> AggregatorConfig:
        """Return the configuration of this plan's aggregator.

        ``tasks`` replaces the plan's (a plan of the interactive frontend has none); then the assigner is ``assigner``
        or gives everybody everything, and ``task_aggregation`` names the functions that are not the default. Best and
        last model are written as the plan says when ``models_folder``, to which its paths are relative, is given; give
        it only for a plan that this host's operator wrote. ``uploads`` are the rules where the plan has none of its own,
        ``durability`` is instead of the plan's.
        """
        chosen = self.tasks if tasks is None else tuple(tasks)
        if not chosen:
            raise self._document.error(("tasks",), "names no task; expected at least one 'name: {function, kwargs}'")
        if assigner is None:
            assigner = self.assigner if tasks is None else AssignerConfig()
        sections.check_groups(self._document, assigner, chosen)
        return AggregatorConfig(
            uuid=self.aggregator_uuid,
            federation_uuid=self.federation_uuid,
            aliases=self.aliases,
            collaborators=tuple(collaborators),
            rounds=self.rounds,
            tasks=chosen,
            assigner=assigner,
            stragglers=self.stragglers,
            task_aggregation=self.task_aggregation if tasks is None else dict(task_aggregation or {}),
            pipeline=self.pipeline,
            store_rounds=sections.store_rounds(self._document, "aggregator", minimum=2),
            uploads=sections.upload_rules(self._document, ("aggregator", "settings"), uploads or UploadRules()),
            durability=durability or sections.durability(self._document, ("aggregator", "settings")),
            single_col_cert_common_name=sections.single_common_name(self._document, "aggregator"),
            write_logs=self._document.boolean("aggregator", "settings", "write_logs", default=False),
            workspace=workspace,
            best_model_path=self._model_path("best_state_path", models_folder),
            last_model_path=self._model_path("last_state_path", models_folder),
            listen=listen,
            tls=tls,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
        )

    def collaborator_config(
        self,
        name: str,
        *,
        endpoint: Endpoint | None = None,
        tls: TLSConfig | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
    ) -> CollaboratorConfig:
        """Return the configuration of the collaborator ``name``; ``endpoint`` replaces the plan's."""
        return CollaboratorConfig(
            name=name,
            aggregator_uuid=self.aggregator_uuid,
            federation_uuid=self.federation_uuid,
            endpoint=endpoint or self.endpoint,
            delta_updates=self.delta_updates,
            pipeline=self.pipeline,
            store_rounds=sections.store_rounds(self._document, "collaborator", minimum=1),
            single_col_cert_common_name=sections.single_common_name(self._document, "collaborator"),
            tls=tls,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
            retry=retry or RetryPolicy(),
        )

    def _model_path(self, key: str, folder: Path | None) -> Path | None:
        written = self._document.string("aggregator", "settings", key, default="")
        return None if folder is None or not written else folder / written

    def _template(self, section: str, *, default: str) -> TemplateRef:
        template = self._document.string(section, "template", default=default)
        try:
            check_class_path(template, what="template")
            if template.startswith("openfl."):
                (TASK_RUNNERS if section == "task_runner" else DATA_LOADERS).name_of(template)
        except ConfigurationError as exc:
            raise self._document.error((section, "template"), str(exc)) from None
        return TemplateRef(template, self._document.mapping(section, "settings"))


def read_text(path: Path) -> str:
    """Return the text of a configuration file; `ConfigurationError` in one sentence if that cannot be."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror or exc}") from None
    return _decoded(data, str(path))


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"{source}: expected UTF-8 text, got byte {data[exc.start]:#x} at {exc.start}"
        ) from None


def _hash(document: Document) -> str:
    return sha384(document.dump().encode("utf-8", "surrogatepass")).hexdigest()


def _port(document: Document) -> int | None:
    """Return ``agg_port``; None for `auto`. Digits in quotes are a port too."""
    value = document.get("network", "settings", "agg_port")
    if value == _AUTO:
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) <= 5 and int(value) <= 65535:
        return int(value)
    return document.integer("network", "settings", "agg_port", minimum=0, maximum=65535)


def _merge_defaults(document: Document, release: str) -> None:
    """Merge the default sections of a release of OpenFL in place, section by section in name order; the plan's own values win."""
    data = document.data
    for section in data:
        if not isinstance(section, str) or not isinstance(data[section], dict):
            raise document.error((str(section),), "expected a section: a name and a mapping of keys")
        if data[section].get("settings") is None:
            data[section]["settings"] = {}  # `tasks` too: it is part of what is hashed
        document.mapping(section, "settings")
    for section in sorted(data):
        written = data[section].pop("defaults", None)
        if written is None:
            continue
        merged = default_section(written, release) if isinstance(written, str) else None
        if merged is None:
            known = ", ".join(DEFAULTS[release])
            others = [name for name in RELEASES if isinstance(written, str) and written in DEFAULTS[name]]
            hint = f"; OpenFL {', '.join(others)} has them" if others else ""
            what = f"OpenFL {release} has no defaults {str(written)[:100]!r}"
            raise document.error((section, "defaults"), f"{what}{hint}; known are {known}")
        if "settings" in merged:
            data[section]["settings"] = {**merged["settings"], **data[section]["settings"]}
        data[section] = {**merged, **data[section]}
