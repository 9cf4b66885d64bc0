"""A server with the flags, ports and states of TensorFlow Serving, for tests on Kubernetes.

``python -m cluster.server --port=8500 ...`` runs it; the Dockerfile makes an image of it. What it
computes, and its errors, are those of :mod:`c3d_export.local_server`.
"""
