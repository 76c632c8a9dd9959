"""Proof and what-if: verify a history from its ledgers, rebuild state from them, and run events without servers.

Nothing here decides by rules of its own: the same machines run over the same records.
"""
