"""Hands the model in as it came."""

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from stage import stamp

app = ClientApp()


@app.train()
def train(message, context):
    stamp(str(context.node_id))
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
