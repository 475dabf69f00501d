"""A site's data: one number."""

from openfl.interface.interactive_api.shard_descriptor import ShardDescriptor


class Number(ShardDescriptor):
    """The number is the only sample."""

    def __init__(self, number):
        self.number = float(number)

    def get_dataset(self, dataset_type="train"):
        return self.number

    @property
    def sample_shape(self):
        return ["1"]

    @property
    def target_shape(self):
        return ["1"]

    @property
    def dataset_description(self):
        return "one number"
