"""FedAvg over all nodes, without evaluation."""

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid, context):
    values = context.run_config
    arrays = ArrayRecord([np.ones(values["size"], np.float32) for _ in range(values["tensors"])])
    count = values["collaborators"]
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=values["rounds"])
