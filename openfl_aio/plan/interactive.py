"""What a plan of OpenFL's interactive frontend says about the objects in its archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.document import Document
from openfl_aio.plan.sections import OPT_TREATMENTS, opt_treatment
from openfl_aio.plan.templates import check_class_path

__all__ = ["InteractiveObjects", "interactive_objects"]

DEVICE_POLICIES: Final = ("CPU_ONLY", "CUDA_PREFERRED")
_PLUGINS: Final = "required_plugin_components"


@dataclass(frozen=True, slots=True)
class InteractiveObjects:
    """The pickled objects of an archive by file, and how a site runs them.

    ``serializer`` reads the files and ``adapter`` the model's tensors; both are class paths. ``opt_treatment`` is one
    of 1.6's names. ``prefer_cuda``: tasks get a CUDA device where the site has one.
    """

    model_file: str
    tasks_file: str
    loader_file: str
    serializer: str
    adapter: str
    opt_treatment: str = "RESET"
    prefer_cuda: bool = False


def interactive_objects(document: Document) -> InteractiveObjects | None:
    """Return what the plan says; None if it is no plan of the interactive frontend. Raises `ConfigurationError`."""
    if "api_layer" not in document.data:
        return None
    return InteractiveObjects(
        model_file=_file(document, "model_interface_file", "model_obj.pkl"),
        tasks_file=_file(document, "tasks_interface_file", "tasks_obj.pkl"),
        loader_file=_file(document, "dataloader_interface_file", "loader_obj.pkl"),
        serializer=_class(document, "api_layer", _PLUGINS, "serializer_plugin"),
        adapter=_class(document, "task_runner", _PLUGINS, "framework_adapters"),
        opt_treatment=opt_treatment(document) or OPT_TREATMENTS[0],
        prefer_cuda=_choice(document, "device_assignment_policy", DEVICE_POLICIES) == "CUDA_PREFERRED",
    )


def _file(document: Document, key: str, default: str) -> str:
    return document.string("api_layer", "settings", key, default=default)


def _class(document: Document, *path: str) -> str:
    try:
        return check_class_path(document.string(*path), what="class")
    except ConfigurationError as exc:
        raise document.error(path, str(exc)) from None


def _choice(document: Document, key: str, known: tuple[str, ...]) -> str:
    path = ("collaborator", "settings", key)
    value = document.string(*path, default=known[0])
    if value not in known:
        raise document.error(path, f"expected one of {', '.join(known)}, got {value[:60]!r}")
    return value
