"""The data plane: HTTP/2 for gRPC alone, every frame cheap and every frame within a budget.

Sans-IO, from below: `frames` (bytes), `reader` (bytes into frames), `headers` and `blocks` (HPACK, and what a request may
say), `streams` (states as tables), `windows`, `room` and `budget` (what a peer may have and cause), `messages` (gRPC
messages out of DATA), `outgoing` and `sender`, and `engine`, which is a connection. On asyncio: `connection` and `stream`
over `writer`, `turns` (nobody makes others wait), `memory`, and `tls`.
"""
