"""OpenFL's ``DirectorGRPCServer`` over our `Director`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import anyio
import anyio.to_thread

from openfl_aio.compat.arguments import SERVER_ARGUMENTS, File, endpoint_of, only, server_host, tls_of
from openfl_aio.compat.calls import Context, each, plain
from openfl_aio.config import DirectorConfig, Endpoint, Limits
from openfl_aio.director.execution import PLAN_MEMBER, Inspection
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import DirectorServicer
from openfl_aio.errors import AuthenticationError, InvalidStateError
from openfl_aio.plan.plan import Plan
from openfl_aio.storage.unpack import unpack
from openfl_aio.transport.context import COMMON_NAME, NamedService
from openfl_aio.transport.identity import CLIENT_ID, DEFAULT_NAME, Caller, as_caller
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import director as messages

__all__ = ["DirectorGRPCServer"]

T = TypeVar("T")

HEALTH_CHECK_PERIOD: Final = 60  # seconds, of OpenFL's director where none is given
DIRECTOR_ARGUMENTS: Final = frozenset({"install_requirements", "sample_shape", "target_shape"})
END: Final = object()


class DirectorGRPCServer:
    """Serves a director, made of ``director_cls``: our `Director` or a subclass.

    ``await server.start()`` serves until it is cancelled, ``async with server`` beside other work. What a subclass
    overrides is what the network calls. Keyword arguments are those of OpenFL's ``Director``, of which
    ``install_requirements`` has no effect but a warning, and of our
    `DirectorConfig` ``workspace`` and ``allow_plaintext_anywhere``, of our `TLSConfig` ``deny_list`` and ``crl``.
    ``review_plan_callback`` is called in a thread with the experiment's name and the path of ``plan/plan.yaml`` in a
    copy of its workspace, or awaited with a `Plan` if it is a coroutine function.
    ``envoy_health_check_period=0`` is 60 seconds.
    """

    def __init__(
        self,
        *,
        director_cls: type[Director],
        tls: bool = True,
        root_certificate: File = None,
        private_key: File = None,
        certificate: File = None,
        review_plan_callback: Callable[..., Any] | None = None,
        listen_host: str = "[::]",
        listen_port: int = 50051,
        envoy_health_check_period: int = 0,
        **kwargs: Any,
    ) -> None:
        only(type(self).__name__, kwargs, {"workspace", *DIRECTOR_ARGUMENTS, *SERVER_ARGUMENTS})
        anywhere = bool(kwargs.pop("allow_plaintext_anywhere", False))
        host = server_host(listen_host, tls=tls, allow_plaintext_anywhere=anywhere)
        deny_list, crl = kwargs.pop("deny_list", None), kwargs.pop("crl", None)
        self.listen_uri = f"{host}:{listen_port}"
        self.tls = tls
        self.root_certificate, self.private_key, self.certificate = (
            Path(file).absolute() if tls and file else None for file in (root_certificate, private_key, certificate)
        )
        credentials = tls_of(
            tls, self.root_certificate, self.certificate, self.private_key, deny_list=deny_list, crl=crl
        )
        config = DirectorConfig(
            listen=endpoint_of(self.listen_uri),
            tls=credentials,
            sample_shape=tuple(map(str, kwargs.pop("sample_shape", None) or ())),
            target_shape=tuple(map(str, kwargs.pop("target_shape", None) or ())),
            envoy_health_check_period=envoy_health_check_period or HEALTH_CHECK_PERIOD,
            allow_plaintext_anywhere=anywhere,
            **kwargs,
        )
        of_plan = review_plan_callback if inspect.iscoroutinefunction(review_plan_callback) else None
        self.director = director_cls(config, review=of_plan)
        if review_plan_callback is not None and of_plan is None:
            self.director.inspection = _inspection(review_plan_callback, config.limits)
        self.director.front = self._front
        self.server: Server | None = None
        self._servicer = DirectorServicer(self.director, limits=config.limits)
        self._stack: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.listen_uri!r})"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.server = (await stack.enter_async_context(self.director)).server
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        self.server = None
        if stack is not None:
            await stack.aclose()

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens; the port is the bound one. Raises `InvalidStateError` while it does not serve."""
        if self._stack is None:
            raise InvalidStateError("the director does not serve yet; enter it, or start it first")
        return self.director.endpoint

    def get_caller(self, context: Context | None) -> str:
        """Return who calls: by certificate, without TLS by the metadata ``client_id``, else ``__default__``.

        Raises `AuthenticationError` with TLS for a context that proves no name.
        """
        if context is None:
            return DEFAULT_NAME
        if not self.tls:
            name = dict(context.invocation_metadata()).get(CLIENT_ID, DEFAULT_NAME)
            return name.decode() if isinstance(name, bytes) else name
        names = context.auth_context().get(COMMON_NAME)
        if not names:
            raise AuthenticationError(
                "the call came without a client certificate; the director knows callers by theirs"
            )
        return names[0].decode()

    async def start(self) -> None:
        """Serve until cancelled."""
        if self._stack is not None:
            await anyio.sleep_forever()
        async with self:
            await anyio.sleep_forever()

    def _front(self, own: DirectorServicer) -> NamedService:
        return NamedService(self, lambda _: own)

    def _caller(self, context: Context | None) -> Caller:
        # a call without a context is the process's own: it may speak for any envoy, as OpenFL's callers could
        proven = self.tls and context is not None
        name = plain(self.get_caller(context), "get_caller")
        return Caller(name, authenticated=proven, address="" if context is None else context.peer())

    async def _stream(self, context: Context | None, answers: AsyncIterator[T]) -> AsyncGenerator[T]:
        """Yield ``answers``, each asked for in the caller's name."""
        caller = self._caller(context)
        async with aclosing(cast("AsyncGenerator[T]", answers)):
            while True:
                with as_caller(caller):  # left before the yield, which may be resumed elsewhere
                    answer = await anext(answers, END)
                if answer is END:
                    return
                yield cast("T", answer)

    async def UpdateShardInfo(  # noqa: N802
        self, request: messages.UpdateShardInfoRequest, context: Context | None
    ) -> messages.UpdateShardInfoResponse:
        """Register an envoy's shard."""
        with as_caller(self._caller(context)):
            return await self._servicer.update_shard_info(request)

    async def UpdateEnvoyStatus(  # noqa: N802
        self, request: messages.UpdateEnvoyStatusRequest, context: Context | None
    ) -> messages.UpdateEnvoyStatusResponse:
        """Take a health report."""
        with as_caller(self._caller(context)):
            return await self._servicer.update_envoy_status(request)

    async def WaitExperiment(  # noqa: N802
        self, request: messages.WaitExperimentRequest, context: Context | None
    ) -> messages.WaitExperimentResponse:
        """Answer when there is an experiment for the envoy."""
        with as_caller(self._caller(context)):
            return await self._servicer.wait_experiment(request)

    async def GetExperimentData(  # noqa: N802
        self, request: messages.GetExperimentDataRequest, context: Context | None
    ) -> AsyncIterator[messages.ExperimentData]:
        """Stream the archive of an experiment."""
        async with aclosing(self._stream(context, self._servicer.get_experiment_data(request))) as answers:
            async for answer in answers:
                yield answer

    async def SetExperimentFailed(  # noqa: N802
        self, request: messages.SetExperimentFailedRequest, context: Context | None
    ) -> messages.SetExperimentFailedResponse:
        """Take an envoy's word that its part failed."""
        with as_caller(self._caller(context)):
            return await self._servicer.set_experiment_failed(request)

    async def SetNewExperiment(  # noqa: N802
        self,
        stream: AsyncIterator[messages.ExperimentInfo] | Iterable[messages.ExperimentInfo],
        context: Context | None,
    ) -> messages.SetNewExperimentResponse:
        """Take a submission; who makes it owns the experiment."""
        with as_caller(self._caller(context)):
            return await self._servicer.set_new_experiment(each(stream))

    async def GetExperimentStatus(  # noqa: N802
        self, request: messages.GetExperimentStatusRequest, context: Context | None
    ) -> messages.GetExperimentStatusResponse:
        """Tell how an experiment of the caller stands."""
        with as_caller(self._caller(context)):
            return await self._servicer.get_experiment_status(request)

    async def GetExperimentsList(  # noqa: N802
        self, request: messages.GetExperimentsListRequest, context: Context | None
    ) -> messages.GetExperimentsListResponse:
        """List the caller's experiments."""
        with as_caller(self._caller(context)):
            return await self._servicer.get_experiments_list(request)

    async def GetExperimentDescription(  # noqa: N802
        self, request: messages.GetExperimentDescriptionRequest, context: Context | None
    ) -> messages.GetExperimentDescriptionResponse:
        """Describe an experiment of the caller."""
        with as_caller(self._caller(context)):
            return await self._servicer.get_experiment_description(request)

    async def GetDatasetInfo(  # noqa: N802
        self, request: messages.GetDatasetInfoRequest, context: Context | None
    ) -> messages.GetDatasetInfoResponse:
        """Tell the shapes that every shard has."""
        with as_caller(self._caller(context)):
            return await self._servicer.get_dataset_info(request)

    async def GetTrainedModel(  # noqa: N802
        self, request: messages.GetTrainedModelRequest, context: Context | None
    ) -> messages.TrainedModelResponse:
        """Give a model of an experiment of the caller."""
        with as_caller(self._caller(context)):
            return await self._servicer.get_trained_model(request)

    async def GetMetricStream(  # noqa: N802
        self, request: messages.GetMetricStreamRequest, context: Context | None
    ) -> AsyncIterator[messages.GetMetricStreamResponse]:
        """Stream the metrics of an experiment of the caller from the first on, until it ends."""
        async with aclosing(self._stream(context, self._servicer.get_metric_stream(request))) as answers:
            async for answer in answers:
                yield answer

    async def RemoveExperimentData(  # noqa: N802
        self, request: messages.RemoveExperimentRequest, context: Context | None
    ) -> messages.RemoveExperimentResponse:
        """Stop and forget an experiment of the caller."""
        with as_caller(self._caller(context)):
            return await self._servicer.remove_experiment_data(request)

    async def GetEnvoys(  # noqa: N802
        self, request: messages.GetEnvoysRequest, context: Context | None
    ) -> messages.GetEnvoysResponse:
        """List the registered envoys."""
        with as_caller(self._caller(context)):
            return await self._servicer.get_envoys(request)


def _inspection(callback: Callable[..., Any], limits: Limits) -> Inspection:
    """Return what asks ``callback``, in a thread, about the workspace of an experiment."""

    async def inspection(name: str, archive: Path, _plan: Plan) -> bool:
        async with anyio.TemporaryDirectory(prefix="openfl-aio-review-", ignore_cleanup_errors=True) as folder:
            workspace = Path(folder) / "workspace"
            await unpack(archive, workspace, limits=limits)
            path = workspace / PLAN_MEMBER
            answer = await anyio.to_thread.run_sync(callback, name, path, abandon_on_cancel=True)
            return bool(await answer if inspect.isawaitable(answer) else answer)

    return inspection
