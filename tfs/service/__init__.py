"""One small module per RPC family: raw bytes or messages in, the same out; no grpc, no HTTP."""
