"""Messages to domain values and back, two functions a type.

``<noun>_to_proto`` never fails for a valid value; ``<noun>_from_proto`` raises `MalformedMessageError` for text that
means nothing here. An absent sub-message reads as its empty value, as everywhere in protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from openfl_aio.domain import (
    Assignment,
    CollaboratorProgress,
    DeviceInfo,
    EnvoyInfo,
    ExperimentDescription,
    ExperimentStatus,
    ExperimentSummary,
    Header,
    Metric,
    ModelKind,
    ShardInfo,
    Task,
    TaskKind,
    TensorQuery,
    check_label,
)
from openfl_aio.errors import ConfigurationError, MalformedMessageError
from openfl_aio.tensors.codec import EncodedTensor, TransformerMetadata
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.wire import messages
from openfl_aio.wire.messages import aggregator, director

__all__ = [
    "assignment_from_proto",
    "assignment_to_proto",
    "check_labels",
    "description_from_proto",
    "description_to_proto",
    "device_from_proto",
    "device_to_proto",
    "envoy_from_proto",
    "envoy_to_proto",
    "header_from_proto",
    "header_to_proto",
    "metadata_from_proto",
    "metadata_to_proto",
    "metric_from_proto",
    "metric_to_proto",
    "model_from_proto",
    "model_kind_from_proto",
    "model_to_proto",
    "query_from_proto",
    "query_to_proto",
    "shard_from_proto",
    "shard_to_proto",
    "status_from_proto",
    "status_to_proto",
    "summary_from_proto",
    "summary_to_proto",
    "task_from_proto",
    "task_to_proto",
    "tensor_from_proto",
    "tensor_to_proto",
]

MetricMessage = TypeVar("MetricMessage", aggregator.GetMetricStreamResponse, director.GetMetricStreamResponse)


def check_labels(*labels: str, what: str) -> tuple[str, ...]:
    """Return ``labels`` if each can name a tensor, tag or task (`check_label`), else raise `MalformedMessageError`."""
    for label in labels:
        try:
            check_label(label, what=what)
        except ConfigurationError as exc:
            raise MalformedMessageError(str(exc)) from None
    return labels


# --------------------------------------------------------------------------------------------- aggregator's service


def header_to_proto(header: Header) -> aggregator.MessageHeader:
    """Return the message of ``header``."""
    return aggregator.MessageHeader(
        sender=header.sender,
        receiver=header.receiver,
        federation_uuid=header.federation_uuid,
        single_col_cert_common_name=header.single_col_cert_common_name,
    )


def header_from_proto(message: aggregator.MessageHeader | None) -> Header:
    """Return the header; an absent one is four empty strings, which no check lets pass."""
    if message is None:
        return Header("", "", "")
    return Header(message.sender, message.receiver, message.federation_uuid, message.single_col_cert_common_name)


def task_to_proto(task: Task) -> aggregator.Task:
    """Return the message of ``task``."""
    return aggregator.Task(
        name=task.name, function_name=task.function_name, task_type=task.kind.value, apply_local=task.apply_local
    )


def task_from_proto(message: aggregator.Task) -> Task:
    """Return the task; raises `MalformedMessageError` for a task type other than train, validate or none."""
    try:
        kind = TaskKind(message.task_type)
    except ValueError:
        raise MalformedMessageError(
            f"expected the type 'train' or 'validate' for task {message.name!r}, got {message.task_type!r}"
        ) from None
    return Task(message.name, message.function_name, kind, message.apply_local)


def assignment_to_proto(assignment: Assignment, *, header: Header) -> aggregator.GetTasksResponse:
    """Return the reply to GetTasks."""
    return aggregator.GetTasksResponse(
        header=header_to_proto(header),
        round_number=assignment.round_number,
        tasks=[task_to_proto(task) for task in assignment.tasks],
        sleep_time=assignment.sleep_seconds,
        quit=assignment.quit,
    )


def assignment_from_proto(message: aggregator.GetTasksResponse) -> Assignment:
    """Return what a reply to GetTasks asks for. Its header is checked elsewhere."""
    return Assignment(
        round_number=message.round_number,
        tasks=tuple(task_from_proto(task) for task in message.tasks),
        sleep_seconds=message.sleep_time,
        quit=message.quit,
    )


def query_to_proto(query: TensorQuery, *, header: Header | None = None) -> aggregator.GetAggregatedTensorRequest:
    """Return the request of ``query``; without a header where it is one of several."""
    return aggregator.GetAggregatedTensorRequest(
        header=None if header is None else header_to_proto(header),
        tensor_name=query.tensor_name,
        round_number=query.round_number,
        report=query.report,
        tags=list(query.tags),
        require_lossless=query.require_lossless,
    )


def query_from_proto(message: aggregator.GetAggregatedTensorRequest) -> TensorQuery:
    """Return what is asked for, the tags in the order in which they came. The header is checked elsewhere."""
    check_labels(message.tensor_name, what="tensor")
    return TensorQuery(
        tensor_name=message.tensor_name,
        round_number=message.round_number,
        report=message.report,
        tags=check_labels(*message.tags, what="tag"),
        require_lossless=message.require_lossless,
    )


def metric_to_proto(metric: Metric, message_type: type[MetricMessage]) -> MetricMessage:
    """Return ``metric`` as the GetMetricStreamResponse of either service. The value becomes a float32 on the wire."""
    return message_type(
        metric_origin=metric.origin,
        task_name=metric.task_name,
        metric_name=metric.name,
        metric_value=metric.value,
        round=metric.round_number,
    )


def metric_from_proto(message: aggregator.GetMetricStreamResponse | director.GetMetricStreamResponse) -> Metric:
    """Return the metric that either service streams."""
    return Metric(
        origin=message.metric_origin,
        task_name=message.task_name,
        name=message.metric_name,
        value=message.metric_value,
        round_number=message.round,
    )


# ----------------------------------------------------------------------------------------------------------- tensors


def metadata_to_proto(metadata: TransformerMetadata) -> messages.MetadataProto:
    """Return the message of one pipeline stage's metadata; a `FloatTable` stays one, which our codec writes."""
    table = metadata.int_to_float
    return messages.MetadataProto(
        int_to_float=table if isinstance(table, FloatTable) else dict(table),  # type: ignore[arg-type]
        int_list=list(metadata.int_list),
        bool_list=list(metadata.bool_list),
    )


def metadata_from_proto(message: messages.MetadataProto) -> TransformerMetadata:
    """Return one pipeline stage's metadata."""
    table: Mapping[int, float] = message.int_to_float
    if not isinstance(table, FloatTable):
        table = dict(table)
    return TransformerMetadata(table, tuple(message.int_list), tuple(message.bool_list))


def tensor_to_proto(tensor: EncodedTensor) -> messages.NamedTensor:
    """Return the message of ``tensor``; its ``data`` is not copied."""
    return messages.NamedTensor(
        name=tensor.name,
        round_number=tensor.round_number,
        lossless=tensor.lossless,
        report=tensor.report,
        tags=list(tensor.tags),
        transformer_metadata=[metadata_to_proto(metadata) for metadata in tensor.metadata],
        data_bytes=tensor.data,  # type: ignore[arg-type] # our codec writes any buffer
    )


def tensor_from_proto(message: messages.NamedTensor) -> EncodedTensor:
    """Return the tensor; its ``data`` is the message's own buffer, which may be a view."""
    return EncodedTensor(
        name=message.name,
        round_number=message.round_number,
        lossless=message.lossless,
        report=message.report,
        tags=tuple(message.tags),
        metadata=tuple(metadata_from_proto(metadata) for metadata in message.transformer_metadata),
        data=message.data_bytes,
    )


def model_to_proto(tensors: Iterable[EncodedTensor]) -> messages.ModelProto:
    """Return the message of a model."""
    return messages.ModelProto(tensors=[tensor_to_proto(tensor) for tensor in tensors])


def model_from_proto(message: messages.ModelProto | None) -> tuple[EncodedTensor, ...]:
    """Return the tensors of a model in their order; none for an absent model."""
    if message is None:
        return ()
    check_labels(*(tensor.name for tensor in message.tensors), what="tensor")
    return tuple(tensor_from_proto(tensor) for tensor in message.tensors)


def model_kind_from_proto(number: int) -> ModelKind | None:
    """Return which model a request names, or None for a number that names none."""
    try:
        return ModelKind(int(number))
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------- director's service


def device_to_proto(device: DeviceInfo) -> director.CudaDeviceInfo:
    """Return the message of a CUDA device."""
    return director.CudaDeviceInfo(
        index=device.index,
        memory_total=device.memory_total,
        memory_utilized=device.memory_utilized,
        device_utilization=device.device_utilization,
        cuda_driver_version=device.cuda_driver_version,
        cuda_version=device.cuda_version,
        name=device.name,
    )


def device_from_proto(message: director.CudaDeviceInfo) -> DeviceInfo:
    """Return the CUDA device."""
    return DeviceInfo(
        index=message.index,
        memory_total=message.memory_total,
        memory_utilized=message.memory_utilized,
        device_utilization=message.device_utilization,
        cuda_driver_version=message.cuda_driver_version,
        cuda_version=message.cuda_version,
        name=message.name,
    )


def shard_to_proto(shard: ShardInfo) -> director.ShardInfo:
    """Return the message of a shard."""
    return director.ShardInfo(
        node_info=director.NodeInfo(
            name=shard.name, cuda_devices=[device_to_proto(device) for device in shard.devices]
        ),
        shard_description=shard.description,
        n_samples=shard.n_samples,
        sample_shape=list(shard.sample_shape),
        target_shape=list(shard.target_shape),
    )


def shard_from_proto(message: director.ShardInfo | None) -> ShardInfo:
    """Return the shard; the name is empty when no node is told (a director's own description of its data set)."""
    message = message or director.ShardInfo()
    node = message.node_info or director.NodeInfo()
    return ShardInfo(
        name=node.name,
        description=message.shard_description,
        n_samples=message.n_samples,
        sample_shape=tuple(message.sample_shape),
        target_shape=tuple(message.target_shape),
        devices=tuple(device_from_proto(device) for device in node.cuda_devices),
    )


def envoy_to_proto(envoy: EnvoyInfo) -> director.EnvoyInfo:
    """Return the message of an envoy's state."""
    return director.EnvoyInfo(
        shard_info=shard_to_proto(envoy.shard),
        is_online=envoy.is_online,
        is_experiment_running=envoy.is_experiment_running,
        last_updated=datetime.fromtimestamp(envoy.last_updated, UTC),
        valid_duration=timedelta(seconds=envoy.valid_seconds),
        experiment_name=envoy.experiment_name,
    )


def envoy_from_proto(message: director.EnvoyInfo) -> EnvoyInfo:
    """Return an envoy's state; times are exact to the microsecond."""
    return EnvoyInfo(
        shard=shard_from_proto(message.shard_info),
        is_online=message.is_online,
        is_experiment_running=message.is_experiment_running,
        last_updated=message.last_updated.timestamp() if message.last_updated else 0.0,
        valid_seconds=message.valid_duration.total_seconds() if message.valid_duration else 0.0,
        experiment_name=message.experiment_name,
    )


def status_to_proto(status: ExperimentStatus | None) -> str:
    """Return the status as OpenFL writes it; empty for an experiment that is absent or somebody else's."""
    return "" if status is None else status.value


def status_from_proto(text: str) -> ExperimentStatus | None:
    """Return the status, None for the empty text; raises `MalformedMessageError` for a word that is none."""
    if not text:
        return None
    try:
        return ExperimentStatus(text)
    except ValueError:
        known = ", ".join(status.value for status in ExperimentStatus)
        raise MalformedMessageError(f"expected an experiment status ({known}), got {text!r}") from None


def _status_of(name: str, text: str) -> ExperimentStatus:
    status = status_from_proto(text)
    if status is None:
        raise MalformedMessageError(f"expected the status of experiment {name!r}, got none")
    return status


def summary_to_proto(summary: ExperimentSummary) -> director.ExperimentListItem:
    """Return a row of the experiments list."""
    return director.ExperimentListItem(
        name=summary.name,
        status=status_to_proto(summary.status),
        collaborators_amount=summary.collaborators,
        tasks_amount=summary.tasks,
        progress=summary.progress,
    )


def summary_from_proto(message: director.ExperimentListItem) -> ExperimentSummary:
    """Return a row of the experiments list; ``progress`` has the precision of a float32."""
    return ExperimentSummary(
        name=message.name,
        status=_status_of(message.name, message.status),
        collaborators=message.collaborators_amount,
        tasks=message.tasks_amount,
        progress=message.progress,
    )


def description_to_proto(description: ExperimentDescription) -> messages.ExperimentDescription:
    """Return the message of all that is told of an experiment."""
    return messages.ExperimentDescription(
        name=description.name,
        status=status_to_proto(description.status),
        progress=description.progress,
        total_rounds=description.total_rounds,
        current_round=description.current_round,
        download_statuses=messages.DownloadStatuses(
            models=[messages.DownloadStatus(name=name, status=status) for name, status in description.models.items()]
        ),
        collaborators=[_progress_to_proto(progress) for progress in description.collaborators],
        tasks=[messages.TaskDescription(name=name) for name in description.tasks],
    )


def description_from_proto(message: messages.ExperimentDescription) -> ExperimentDescription:
    """Return all that is told of an experiment; the log files that 1.6 lists are left out."""
    downloads = message.download_statuses or messages.DownloadStatuses()
    return ExperimentDescription(
        name=message.name,
        status=_status_of(message.name, message.status),
        progress=message.progress,
        total_rounds=message.total_rounds,
        current_round=message.current_round,
        models={model.name: model.status for model in downloads.models},
        collaborators=tuple(_progress_from_proto(progress) for progress in message.collaborators),
        tasks=tuple(task.name for task in message.tasks),
    )


def _progress_to_proto(progress: CollaboratorProgress) -> messages.CollaboratorDescription:
    return messages.CollaboratorDescription(
        name=progress.name,
        status=progress.status,
        progress=progress.progress,
        round=progress.round_number,
        current_task=progress.current_task,
        next_task=progress.next_task,
    )


def _progress_from_proto(message: messages.CollaboratorDescription) -> CollaboratorProgress:
    return CollaboratorProgress(
        name=message.name,
        status=message.status,
        progress=message.progress,
        round_number=message.round,
        current_task=message.current_task,
        next_task=message.next_task,
    )
