"""Requests to TensorFlow Serving over gRPC: connection, retries, concurrency, messages."""
