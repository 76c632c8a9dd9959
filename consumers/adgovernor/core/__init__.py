"""Decide and fold: what happens, why, and what is then true.

What lives here: the state of user shards and treasuries, and the rules of caps, money, pods, pacing and
episodes. What never does: clients, clocks, randomness, the environment, asyncio. The same inputs in the same
order give the same bytes, on every machine and in every replay.
"""
