"""OpenFL's ``DirectorClient`` (a frontend's) and ``ShardDirectorClient`` (an envoy's) over our `DirectorClient`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

import anyio
import numpy as np
from numpy.typing import NDArray

from openfl_aio.compat.arguments import File, endpoint_of, tls_of
from openfl_aio.config import Limits
from openfl_aio.director.client import DirectorClient as OurClient
from openfl_aio.director.servicer import encode_model
from openfl_aio.director.upload import decode_model
from openfl_aio.domain import DeviceInfo, EnvoyInfo, ModelKind, ShardInfo
from openfl_aio.errors import OpenFLAioError, RemoteProtocolError, ShardNotFoundError
from openfl_aio.wire import convert, messages
from openfl_aio.wire.messages import director

__all__ = ["DirectorClient", "ShardDescriptor", "ShardDirectorClient"]

logger = logging.getLogger(__name__)

DATE: Final = "%Y-%m-%d %H:%M:%S"
CHUNK_BYTES: Final = Limits().chunk_bytes


class ShardDescriptor(Protocol):
    """What is asked of a shard descriptor."""

    @property
    def dataset_description(self) -> str:
        """What the data are, in words."""

    @property
    def sample_shape(self) -> Sequence[str]:
        """The shape of one sample."""

    @property
    def target_shape(self) -> Sequence[str]:
        """The shape of one target."""


class _Client:
    """One connection to a director, made at the first call; ``async with`` closes it."""

    def __init__(self, client: OurClient) -> None:
        self._client = client
        self._stack: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._client.endpoint)!r})"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def _open(self) -> OurClient:
        if self._stack is None:
            self._stack = AsyncExitStack()
            await self._stack.enter_async_context(self._client)
        return self._client


class ShardDirectorClient(_Client):
    """What an envoy named ``shard_name`` asks of its director."""

    def __init__(
        self,
        *,
        director_host: str,
        director_port: int | str,
        shard_name: str,
        tls: bool = True,
        root_certificate: File = None,
        private_key: File = None,
        certificate: File = None,
    ) -> None:
        self.shard_name = shard_name
        super().__init__(
            OurClient(
                endpoint_of(f"{director_host}:{director_port}"),
                tls=tls_of(tls, root_certificate, certificate, private_key),
            )
        )

    async def report_shard_info(self, shard_descriptor: ShardDescriptor, cuda_devices: Iterable[int]) -> bool:
        """Register the shard; False if its shapes are not the director's."""
        client = await self._open()
        return await client.update_shard_info(
            ShardInfo(
                self.shard_name,
                description=shard_descriptor.dataset_description,
                sample_shape=tuple(map(str, shard_descriptor.sample_shape)),
                target_shape=tuple(map(str, shard_descriptor.target_shape)),
                devices=tuple(DeviceInfo(index=index) for index in cuda_devices),
            )
        )

    async def wait_experiment(self) -> str:
        """Wait for work, however long it takes, and return the experiment's name."""
        client = await self._open()
        name = await client.wait_experiment(self.shard_name)
        if not name:
            raise RemoteProtocolError("the director answered WaitExperiment without a name")
        return name

    async def get_experiment_data(self, experiment_name: str) -> AsyncIterator[director.ExperimentData]:
        """Yield the archive of an experiment in chunks."""
        client = await self._open()
        async with aclosing(
            cast("AsyncGenerator[memoryview]", client.get_experiment_data(experiment_name, self.shard_name))
        ) as chunks:
            async for chunk in chunks:
                yield director.ExperimentData(size=len(chunk), npbytes=bytes(chunk))

    async def set_experiment_failed(
        self, experiment_name: str, error_code: int = 1, error_description: str = ""
    ) -> None:
        """Report that this envoy's part failed."""
        client = await self._open()
        await client.set_experiment_failed(
            experiment_name, self.shard_name, error_code=error_code, error_description=error_description
        )

    async def send_health_check(
        self,
        *,
        envoy_name: str,
        is_experiment_running: bool,
        cuda_devices_info: Sequence[Mapping[str, Any]] | None = None,
    ) -> int | None:
        """Report health; return after how many seconds to do it again. `ShardNotFoundError`: register again.

        Of anything else that goes wrong the log tells, and None is returned: health is reported again soon. Devices that
        cannot be reported are left out, all of them.
        """
        client = await self._open()
        try:
            period = await client.update_envoy_status(
                envoy_name, is_experiment_running=is_experiment_running, devices=_devices(cuda_devices_info or ())
            )
        except ShardNotFoundError:
            raise
        except OpenFLAioError as exc:
            logger.error("no health was reported: %s", exc)
            return None
        return int(period)


class DirectorClient(_Client):
    """What a frontend asks of its director; without TLS under the name ``client_id``."""

    def __init__(
        self,
        *,
        client_id: str | None,
        director_host: str,
        director_port: int | str,
        tls: bool,
        root_certificate: File,
        private_key: File,
        certificate: File,
    ) -> None:
        super().__init__(
            OurClient(
                endpoint_of(f"{director_host}:{director_port}"),
                tls=tls_of(tls, root_certificate, certificate, private_key),
                client_id=client_id or None,
            )
        )

    async def set_new_experiment(
        self,
        name: str,
        col_names: Sequence[str],
        arch_path: str | Path,
        initial_tensor_dict: Mapping[str, NDArray[Any]] | None = None,
    ) -> director.SetNewExperimentResponse | None:
        """Submit an experiment with the archive at ``arch_path``; without an initial model nothing is sent."""
        if not initial_tensor_dict:
            return None
        client = await self._open()
        accepted = await client.set_new_experiment(
            name, collaborators=col_names, model=encode_model(initial_tensor_dict), archive=_chunks(Path(arch_path))
        )
        return director.SetNewExperimentResponse(accepted=accepted)

    async def get_experiment_status(self, experiment_name: str) -> director.GetExperimentStatusResponse:
        """Return the status; an empty one for an experiment that is absent or not yours."""
        client = await self._open()
        status = await client.get_experiment_status(experiment_name)
        return director.GetExperimentStatusResponse(experiment_status=convert.status_to_proto(status))

    async def get_dataset_info(self) -> tuple[list[str], list[str]]:
        """Return the shapes of a sample and of a target."""
        client = await self._open()
        shard = await client.get_dataset_info()
        return list(shard.sample_shape), list(shard.target_shape)

    async def get_best_model(self, experiment_name: str) -> dict[str, NDArray[np.float32]]:
        """Return the best validated model; empty if there is none yet."""
        return await self._get_trained_model(experiment_name, ModelKind.BEST)

    async def get_last_model(self, experiment_name: str) -> dict[str, NDArray[np.float32]]:
        """Return the last model; empty if there is none yet."""
        return await self._get_trained_model(experiment_name, ModelKind.LAST)

    async def _get_trained_model(self, experiment_name: str, kind: ModelKind) -> dict[str, NDArray[np.float32]]:
        client = await self._open()
        return decode_model(await client.get_trained_model(experiment_name, kind) or ())

    async def stream_metrics(self, experiment_name: str) -> AsyncIterator[dict[str, Any]]:
        """Yield every metric from the first on, live, until the experiment ends."""
        client = await self._open()
        async with aclosing(cast("AsyncGenerator[Any]", client.get_metric_stream(experiment_name))) as metrics:
            async for metric in metrics:
                yield {
                    "metric_origin": metric.origin,
                    "task_name": metric.task_name,
                    "metric_name": metric.name,
                    "metric_value": metric.value,
                    "round": metric.round_number,
                }

    async def remove_experiment_data(self, name: str) -> bool:
        """Stop and forget an experiment of yours. True says only that the director took note."""
        client = await self._open()
        return await client.remove_experiment_data(name)

    async def get_envoys(self, raw_result: bool = False) -> director.GetEnvoysResponse | dict[str, dict[str, Any]]:
        """Return the envoys: by name, or the director's own answer if ``raw_result``. Times are local."""
        client = await self._open()
        envoys = await client.get_envoys()
        if raw_result:
            return director.GetEnvoysResponse(envoy_infos=[convert.envoy_to_proto(envoy) for envoy in envoys])
        return {envoy.shard.name: _row(envoy) for envoy in envoys}

    async def get_experiments_list(self) -> list[director.ExperimentListItem]:
        """Return your experiments, oldest first."""
        client = await self._open()
        return [convert.summary_to_proto(summary) for summary in await client.get_experiments_list()]

    async def get_experiment_description(self, name: str) -> messages.ExperimentDescription:
        """Return all that is told of an experiment of yours; else `ExperimentNotFoundError`."""
        client = await self._open()
        return convert.description_to_proto(await client.get_experiment_description(name))


def _devices(infos: Sequence[Mapping[str, Any]]) -> list[DeviceInfo]:
    try:
        devices = [director.CudaDeviceInfo(**info) for info in infos]
        for device in devices:
            bytes(device)  # only this looks at the values
    except Exception as exc:
        logger.warning("no CUDA device is reported: expected mappings with the fields of CudaDeviceInfo; %s", exc)
        return []
    return [convert.device_from_proto(device) for device in devices]


def _row(envoy: EnvoyInfo) -> dict[str, Any]:
    return {
        "shard_info": convert.shard_to_proto(envoy.shard),
        "is_online": envoy.is_online,
        "is_experiment_running": envoy.is_experiment_running,
        "last_updated": datetime.fromtimestamp(envoy.last_updated).strftime(DATE),
        "current_time": datetime.now().strftime(DATE),
        "valid_duration": timedelta(seconds=envoy.valid_seconds),
        "experiment_name": envoy.experiment_name,
    }


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk
