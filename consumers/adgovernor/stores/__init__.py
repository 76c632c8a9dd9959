"""Materialised state: what the ledger proves, where another worker, a query or a dashboard can read it."""
