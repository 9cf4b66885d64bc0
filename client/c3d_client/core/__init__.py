"""Modules that every other part uses, and that import neither NumPy nor gRPC nor the decoder.

Start with :mod:`~c3d_client.core.contract` (the numbers and names that client and servable share)
and :mod:`~c3d_client.core.errors`. :mod:`~c3d_client.core.uri` holds addresses,
:mod:`~c3d_client.core.provenance` the record of how a feature was made,
:mod:`~c3d_client.core.files` files that are written whole,
:mod:`~c3d_client.core.file_kinds` words for files that are something else than expected,
:mod:`~c3d_client.core.retry` retries, :mod:`~c3d_client.core.signals` Ctrl-C and SIGTERM,
:mod:`~c3d_client.core.cli` exit codes.
"""
