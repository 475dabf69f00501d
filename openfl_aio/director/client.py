"""A client of the Director service, in domain terms: what envoys and frontends ask.

The stubs, the chunks and the status codes end here.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar

from openfl_aio.config import Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.domain import (
    DeviceInfo,
    EnvoyInfo,
    ExperimentDescription,
    ExperimentStatus,
    ExperimentSummary,
    Metric,
    ModelKind,
    ShardInfo,
)
from openfl_aio.errors import LocalProtocolError, NotFoundError, RemoteProtocolError, ShardNotFoundError
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.transport.channel import RETRYABLE, Retries, call_with_retries, open_channel, translate
from openfl_aio.wire import convert
from openfl_aio.wire.framing import ChunkChecker
from openfl_aio.wire.messages import director as messages

__all__ = ["DirectorClient"]

T = TypeVar("T")


class DirectorClient:
    """One channel to a director: ``async with DirectorClient(endpoint, tls=...) as client``.

    Calls that ask or that may be repeated are retried while the director is away, as ``retry`` says; a submission
    is sent once. ``client_id`` names the caller where there is no certificate to do it. Errors are those of
    `openfl_aio.errors`, the director's refusals as it meant them.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tls: TLSConfig | None = None,
        client_id: str | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._client_id = client_id
        self._retry = retry or RetryPolicy(max_elapsed=30.0)
        self._timeouts = timeouts or Timeouts()
        self._limits = limits or Limits()
        self._stack: AsyncExitStack | None = None
        self._stub: messages.DirectorStub | None = None

    def __repr__(self) -> str:
        return f"DirectorClient({str(self.endpoint)!r})"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(
                open_channel(
                    self.endpoint,
                    tls=self._tls,
                    timeouts=self._timeouts,
                    limits=self._limits,
                    metadata={} if self._client_id is None or self._tls else {"client_id": self._client_id},
                )
            )
            self._stub = messages.DirectorStub(channel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack, self._stub = self._stack, None, None
        if stack is not None:
            await stack.__aexit__(kind, value, traceback)

    @property
    def _director(self) -> messages.DirectorStub:
        if self._stub is None:
            raise LocalProtocolError("the director client is not open; use it inside 'async with'")
        return self._stub

    async def _ask(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        return await call_with_retries(self._retry, call, what=f"{what} at the director {self.endpoint}")

    # --- envoys ---------------------------------------------------------------------------------------------------

    async def update_shard_info(self, shard: ShardInfo) -> bool:
        """Register this envoy's shard; False if its shapes are not the director's."""
        request = messages.UpdateShardInfoRequest(shard_info=convert.shard_to_proto(shard))
        reply = await self._ask(lambda: self._director.update_shard_info(request), "registering the shard")
        return reply.accepted

    async def update_envoy_status(
        self, name: str, *, is_experiment_running: bool, devices: Iterable[DeviceInfo] = ()
    ) -> float:
        """Report health and return after how many seconds to do it again; `ShardNotFoundError`: register again."""
        request = messages.UpdateEnvoyStatusRequest(
            name=name,
            is_experiment_running=is_experiment_running,
            cuda_devices=[convert.device_to_proto(device) for device in devices],
        )
        try:
            reply = await self._ask(lambda: self._director.update_envoy_status(request), "reporting health")
        except NotFoundError as exc:
            raise ShardNotFoundError(str(exc)) from None
        if reply.health_check_period is None:
            raise RemoteProtocolError("the director answered a health report without health_check_period")
        return reply.health_check_period.total_seconds()

    async def wait_experiment(self, envoy: str) -> str:
        """Wait for work, however long it takes, and return the experiment's name."""
        request = messages.WaitExperimentRequest(collaborator_name=envoy)
        reply = await self._ask(lambda: self._director.wait_experiment(request), "waiting for an experiment")
        return reply.experiment_name

    async def get_experiment_data(self, name: str, envoy: str) -> AsyncIterator[memoryview]:
        """Yield the bytes of an experiment's archive; the sizes of chunks and the limit are checked.

        Where the connection breaks it is asked for anew, and what was yielded already is passed over: an archive never
        changes.
        """
        request = messages.GetExperimentDataRequest(experiment_name=name, collaborator_name=envoy)
        retries = Retries(self._retry, f"fetching an experiment at the director {self.endpoint}")
        yielded = 0
        while True:
            checker, position = ChunkChecker(self._limits.max_archive_bytes, strict=True), 0
            try:
                with translate():
                    async for chunk in self._director.get_experiment_data(request):
                        data = checker.check(chunk)
                        new = data[max(0, yielded - position) :]
                        position += len(data)
                        if new:
                            yielded += len(new)
                            retries.begin_anew()
                            yield new
                checker.finish()
                if position < yielded:
                    raise RemoteProtocolError(f"the archive had {yielded} bytes, and then only {position}")
                return
            except RETRYABLE as exc:
                await retries.after(exc)

    async def set_experiment_failed(
        self, name: str, envoy: str, *, error_code: int = 1, error_description: str = ""
    ) -> None:
        """Report that this envoy's part of an experiment failed."""
        request = messages.SetExperimentFailedRequest(
            experiment_name=name,
            collaborator_name=envoy,
            error_code=error_code,
            error_description=error_description,
        )
        await self._ask(lambda: self._director.set_experiment_failed(request), "reporting a failure")

    # --- frontends ------------------------------------------------------------------------------------------------

    async def get_dataset_info(self) -> ShardInfo:
        """Return the shapes of the federation's data; the name is empty."""
        reply = await self._ask(
            lambda: self._director.get_dataset_info(messages.GetDatasetInfoRequest()), "asking for the data's shapes"
        )
        if reply.shard_info is None:
            raise RemoteProtocolError("the director answered GetDatasetInfo without shard_info")
        return convert.shard_from_proto(reply.shard_info)

    async def get_envoys(self) -> tuple[EnvoyInfo, ...]:
        """Return the registered envoys."""
        reply = await self._ask(lambda: self._director.get_envoys(messages.GetEnvoysRequest()), "listing envoys")
        return tuple(convert.envoy_from_proto(envoy) for envoy in reply.envoy_infos)

    async def set_new_experiment(
        self,
        name: str,
        *,
        collaborators: Sequence[str],
        model: Sequence[EncodedTensor],
        archive: AsyncIterable[bytes],
    ) -> bool:
        """Submit an experiment, once, and return whether it was accepted.

        ``archive`` yields the bytes of the workspace archive, in chunks of at most ``limits.chunk_bytes``. The model
        goes with the last message only, since that is the one receivers read.
        """
        model_proto = convert.model_to_proto(model)

        def message(chunk: bytes, *, with_model: bool) -> messages.ExperimentInfo:
            return messages.ExperimentInfo(
                name=name,
                collaborator_names=list(collaborators),
                model_proto=model_proto if with_model else None,
                experiment_data=messages.ExperimentData(size=len(chunk), npbytes=chunk),
            )

        async def stream() -> AsyncIterator[messages.ExperimentInfo]:
            held: bytes | None = None
            async for chunk in archive:
                if held is not None:
                    yield message(held, with_model=False)
                held = chunk
            if held is not None:
                yield message(held, with_model=True)

        with translate():
            reply = await self._director.set_new_experiment(stream())
        return reply.accepted

    async def get_experiment_status(self, name: str) -> ExperimentStatus | None:
        """Return the status; None for an experiment that is absent or not yours."""
        request = messages.GetExperimentStatusRequest(experiment_name=name)
        reply = await self._ask(lambda: self._director.get_experiment_status(request), "asking for the status")
        return convert.status_from_proto(reply.experiment_status)

    async def get_experiments_list(self) -> tuple[ExperimentSummary, ...]:
        """Return your experiments, oldest first."""
        reply = await self._ask(
            lambda: self._director.get_experiments_list(messages.GetExperimentsListRequest()), "listing experiments"
        )
        return tuple(convert.summary_from_proto(item) for item in reply.experiments)

    async def get_experiment_description(self, name: str) -> ExperimentDescription:
        """Return all that is told of an experiment of yours; else `ExperimentNotFoundError`."""
        request = messages.GetExperimentDescriptionRequest(name=name)
        reply = await self._ask(lambda: self._director.get_experiment_description(request), "asking for an experiment")
        if reply.experiment is None:
            raise RemoteProtocolError("the director answered GetExperimentDescription without an experiment")
        return convert.description_from_proto(reply.experiment)

    async def get_trained_model(self, name: str, kind: ModelKind) -> tuple[EncodedTensor, ...] | None:
        """Return a model's tensors: none yet is empty, None means that the experiment is absent or not yours."""
        request = messages.GetTrainedModelRequest(
            experiment_name=name, model_type=messages.GetTrainedModelRequestModelType(kind.value)
        )
        reply = await self._ask(lambda: self._director.get_trained_model(request), "asking for a model")
        return None if reply.model_proto is None else tuple(convert.model_from_proto(reply.model_proto))

    async def get_metric_stream(self, name: str) -> AsyncIterator[Metric]:
        """Yield every metric from the first on, live, until the experiment ends.

        Where the connection breaks it is asked for anew, and what was yielded already is passed over: a director tells
        all of it again, in the same order. One of OpenFL 1.6 goes on with what it told nobody yet, and so do we then.
        """
        request = messages.GetMetricStreamRequest(experiment_name=name)
        retries = Retries(self._retry, f"following the metrics at the director {self.endpoint}")
        first, yielded = b"", 0
        while True:
            position = 0
            try:
                with translate():
                    async for reply in self._director.get_metric_stream(request):
                        if not yielded:
                            first = bytes(reply)
                        elif not position and bytes(reply) != first:
                            position = yielded
                        position += 1
                        if position >= yielded:
                            retries.begin_anew()
                        if position > yielded:
                            yielded = position
                            yield convert.metric_from_proto(reply)
                if 0 < position < yielded:
                    raise RemoteProtocolError(f"there were {yielded} metrics, and then only {position}")
                return
            except RETRYABLE as exc:
                await retries.after(exc)

    async def remove_experiment_data(self, name: str) -> bool:
        """Stop and forget an experiment of yours. True says only that the director took note."""
        request = messages.RemoveExperimentRequest(experiment_name=name)
        reply = await self._ask(lambda: self._director.remove_experiment_data(request), "removing an experiment")
        return reply.acknowledgement
