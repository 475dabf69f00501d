"""The fourteen RPCs of OpenFL's Director service, answered by a `Director`.

Only translation: message to domain, call, domain to message. Who calls comes from the transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from openfl_aio.config import Limits
from openfl_aio.director.upload import receive_experiment
from openfl_aio.domain import check_name
from openfl_aio.errors import MalformedMessageError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.transport.identity import current_caller
from openfl_aio.wire import convert, incremental
from openfl_aio.wire.codec import EncodedMessage
from openfl_aio.wire.messages import director as director_messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from openfl_aio.director.service import Director

__all__ = ["DirectorServicer", "encode_model"]


class DirectorServicer(director_messages.DirectorBase):
    """Speaks gRPC for one `Director`."""

    def __init__(self, director: Director, *, limits: Limits) -> None:
        self._director = director
        self._limits = limits

    async def update_shard_info(
        self, message: director_messages.UpdateShardInfoRequest
    ) -> director_messages.UpdateShardInfoResponse:
        """Register an envoy's shard."""
        if message.shard_info is None:
            raise MalformedMessageError("UpdateShardInfo came without shard_info; send the envoy's name and shapes")
        shard = convert.shard_from_proto(message.shard_info)
        accepted = await self._director.update_shard_info(current_caller(), shard)
        return director_messages.UpdateShardInfoResponse(accepted=accepted)

    async def update_envoy_status(
        self, message: director_messages.UpdateEnvoyStatusRequest
    ) -> director_messages.UpdateEnvoyStatusResponse:
        """Take a health report."""
        period = await self._director.update_envoy_status(
            current_caller(),
            _envoy(message.name),
            is_experiment_running=message.is_experiment_running,
            devices=tuple(convert.device_from_proto(device) for device in message.cuda_devices),
        )
        return director_messages.UpdateEnvoyStatusResponse(health_check_period=timedelta(seconds=period))

    async def wait_experiment(
        self, message: director_messages.WaitExperimentRequest
    ) -> director_messages.WaitExperimentResponse:
        """Wait for work."""
        name = await self._director.wait_experiment(current_caller(), _envoy(message.collaborator_name))
        return director_messages.WaitExperimentResponse(experiment_name=name)

    async def get_experiment_data(
        self, message: director_messages.GetExperimentDataRequest
    ) -> AsyncIterator[director_messages.ExperimentData]:
        """Stream an archive."""
        async for chunk in self._director.get_experiment_data(
            current_caller(), _experiment(message.experiment_name), _envoy(message.collaborator_name)
        ):
            yield director_messages.ExperimentData(size=len(chunk), npbytes=chunk)

    async def set_experiment_failed(
        self, message: director_messages.SetExperimentFailedRequest
    ) -> director_messages.SetExperimentFailedResponse:
        """Take a failure report."""
        await self._director.set_experiment_failed(
            current_caller(),
            _experiment(message.experiment_name),
            _envoy(message.collaborator_name),
            error_code=message.error_code,
            error_description=message.error_description,
        )
        return director_messages.SetExperimentFailedResponse()

    async def set_new_experiment(
        self,
        messages: AsyncIterator[director_messages.ExperimentInfo],
    ) -> director_messages.SetNewExperimentResponse:
        """Take a submission."""
        accepted = await receive_experiment(self._director, current_caller(), messages, limits=self._limits)
        return director_messages.SetNewExperimentResponse(accepted=accepted)

    async def get_experiment_status(
        self, message: director_messages.GetExperimentStatusRequest
    ) -> director_messages.GetExperimentStatusResponse:
        """Tell a status, the empty one for an experiment that is absent or somebody else's."""
        status = await self._director.get_experiment_status(current_caller(), _experiment(message.experiment_name))
        return director_messages.GetExperimentStatusResponse(experiment_status=convert.status_to_proto(status))

    async def get_experiments_list(
        self, message: director_messages.GetExperimentsListRequest
    ) -> director_messages.GetExperimentsListResponse:
        """List the caller's experiments."""
        summaries = await self._director.get_experiments_list(current_caller())
        return director_messages.GetExperimentsListResponse(
            experiments=[convert.summary_to_proto(summary) for summary in summaries]
        )

    async def get_experiment_description(
        self, message: director_messages.GetExperimentDescriptionRequest
    ) -> director_messages.GetExperimentDescriptionResponse:
        """Describe one experiment."""
        description = await self._director.get_experiment_description(current_caller(), _experiment(message.name))
        return director_messages.GetExperimentDescriptionResponse(experiment=convert.description_to_proto(description))

    async def get_dataset_info(
        self, message: director_messages.GetDatasetInfoRequest
    ) -> director_messages.GetDatasetInfoResponse:
        """Tell the shapes of the data."""
        shard = await self._director.get_dataset_info(current_caller())
        return director_messages.GetDatasetInfoResponse(
            shard_info=director_messages.ShardInfo(
                sample_shape=list(shard.sample_shape), target_shape=list(shard.target_shape)
            )
        )

    async def get_trained_model(
        self, message: director_messages.GetTrainedModelRequest
    ) -> director_messages.TrainedModelResponse:
        """Give a model; the message is empty without an experiment, the model is empty before the first."""
        kind = convert.model_kind_from_proto(message.model_type)
        if kind is None:
            return director_messages.TrainedModelResponse()
        encoded = await self._director.get_encoded_model(
            current_caller(), _experiment(message.experiment_name), kind, _serialised_model
        )
        return director_messages.TrainedModelResponse(model_proto=encoded)  # type: ignore[arg-type]

    async def get_metric_stream(
        self, message: director_messages.GetMetricStreamRequest
    ) -> AsyncIterator[director_messages.GetMetricStreamResponse]:
        """Stream metrics."""
        async for metric in self._director.get_metric_stream(current_caller(), _experiment(message.experiment_name)):
            yield convert.metric_to_proto(metric, director_messages.GetMetricStreamResponse)

    async def remove_experiment_data(
        self, message: director_messages.RemoveExperimentRequest
    ) -> director_messages.RemoveExperimentResponse:
        """Remove an experiment."""
        done = await self._director.remove_experiment_data(current_caller(), _experiment(message.experiment_name))
        return director_messages.RemoveExperimentResponse(acknowledgement=done)

    async def get_envoys(self, message: director_messages.GetEnvoysRequest) -> director_messages.GetEnvoysResponse:
        """List the envoys."""
        envoys = await self._director.get_envoys(current_caller())
        return director_messages.GetEnvoysResponse(envoy_infos=[convert.envoy_to_proto(envoy) for envoy in envoys])


def _experiment(name: str) -> str:
    return check_name(name, what="experiment")


def _envoy(name: str) -> str:
    """Check the name by which a caller calls itself; one with a certificate is asked for the certificate's instead."""
    return name if current_caller().authenticated else check_name(name, what="envoy")


def encode_model(tensors: Mapping[str, np.ndarray]) -> Sequence[EncodedTensor]:
    """Return a model as OpenFL's frontends read it: uncompressed, round 0, the one tag ``model``, in name order."""
    codec = TensorCodec()
    return tuple(
        replace(codec.encode(TensorKey(name, "", 0, False, ("model",)), array), tags=("model",))
        for name, array in sorted(tensors.items())
    )


def _serialised_model(tensors: Mapping[str, np.ndarray], round_number: int) -> EncodedMessage:
    return EncodedMessage(incremental.encode_model(encode_model(tensors)))
