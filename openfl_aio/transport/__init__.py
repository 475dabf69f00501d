"""The only place that imports grpclib, h2 or ssl."""
