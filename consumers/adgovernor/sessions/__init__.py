"""Stateful sessions with upstream ad servers: VAST chains and VMAP pods over HTTP, tracking, caps and money.

What lives here asks the network and keeps a session's cookies and deadlines. What a document means is
:mod:`adgovernor.video`'s; what a person may still see and what a campaign may still spend is the governor's, asked
through :class:`~adgovernor.sessions.governor.SessionGovernor`.
"""
