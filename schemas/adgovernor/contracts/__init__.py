"""The public contracts: what travels on the topics, what the ledger holds, and the words for both.

What lives here: frozen pydantic models of every public event and command, the ledger's block and record,
topic names and CloudEvents headers, routing, money arithmetic and the error tree. What never does: clients,
clocks, randomness, state. Every model names its units; every money amount is an integer number of
micro-units of the campaign's currency.
"""
