"""The data plane: HTTP/2 for gRPC alone, every frame cheap and every frame within a budget.

From below: `frames` (bytes), `headers` (HPACK and what a request may say), `streams` (states as a table), `messages`
(gRPC messages out of DATA), `engine` (a connection, sans-IO); then `connection` (asyncio) and `tls`.
"""
