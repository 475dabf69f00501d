"""The data of a participant: where its model ought to go. ``data_path`` is a number, and so are its samples."""

import numpy as np


class Targets:
    """One target a tensor; ``shapes`` are the model's."""

    def __init__(self, data_path, shapes, **kwargs):
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.number = int(data_path or 0)  # 1.9 gives none when it makes the initial model
        source = np.random.default_rng(self.number)
        self.targets = {name: source.normal(size=shape).astype(np.float32) for name, shape in self.shapes.items()}

    def get_feature_shape(self):
        """Return the shape of a sample, which has no meaning here."""
        return (1,)

    def get_train_data_size(self):
        """Return the number of samples to train on: a weight that differs from site to site."""
        return 10 * self.number

    def get_valid_data_size(self):
        """Return the number of samples to validate on."""
        return 3 * self.number
