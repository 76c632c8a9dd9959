"""Shards at work: ownership, chunks, the ledger chain, takeover, publishing, quarantine, backpressure."""
