"""``fx``, which also prints which tensors pass its aggregator: see ``traced.py``, which does so for ours."""

from openfl.component.aggregator.aggregator import Aggregator
from openfl.interface.cli import entry

answer, process = Aggregator.get_aggregated_tensor, Aggregator._process_named_tensor


def tell(what, collaborator, number, name, tags):
    """Print one tensor's line, in one piece: there are threads."""
    print(f"{what} {collaborator} {number} {name} {','.join(sorted(tags))}\n", end="", flush=True)


def asked(self, collaborator_name, tensor_name, round_number, report, tags, require_lossless):
    """Tell, and answer."""
    tell("asked", collaborator_name, round_number, tensor_name, tags)
    return answer(self, collaborator_name, tensor_name, round_number, report, tags, require_lossless)


def sent(self, named_tensor, collaborator_name):
    """Tell, and take it."""
    tell("sent", collaborator_name, named_tensor.round_number, named_tensor.name, named_tensor.tags)
    return process(self, named_tensor, collaborator_name)


Aggregator.get_aggregated_tensor = asked
Aggregator._process_named_tensor = sent
entry()
