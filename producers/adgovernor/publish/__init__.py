"""The publishing SDK: typed events, keyed to the right shard, idempotent and acknowledged by every replica.

async with Publisher("localhost:9092", prefix="prod") as publisher:
    await publisher.ad_request(request)
"""

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.publish.lanes import Published
from adgovernor.publish.lines import BadLine, LinesSummary, StoppedAt, publish_lines
from adgovernor.publish.publisher import Bulk, Carrier, Publisher, WritableLog

__all__ = [
    "BadLine",
    "Bulk",
    "Carrier",
    "KafkaConnection",
    "LinesSummary",
    "Published",
    "Publisher",
    "StoppedAt",
    "WritableLog",
    "publish_lines",
]
