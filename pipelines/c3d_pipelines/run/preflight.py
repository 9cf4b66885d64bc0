"""Checks before the first shard: the server answers, serves the right model, and the dataset fits.

A fault that would fail every shard is found here in seconds and reported once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from c3d_client import C3DClient
from c3d_client.core.contract import CLASSIFY, CLIP_SHAPE, FC6_FEATURES, Signature
from c3d_client.core.errors import ContractMismatch
from c3d_client.core.provenance import Provenance

from c3d_pipelines.dataset.card import require_same_dataset
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.storage import storage_of_run, temporary_prefix

# The client's default until the first answer.
_FIRST_WAIT_S = 20.0
_GREY = 128


def preflight(settings: JobSettings) -> JobSettings:
    """Request the server's model and the answer for one clip, and check that the dataset fits.

    It waits at most 20 seconds for the first answer, so that a mistyped address is found soon.

    Returns:
        The settings with the provenance of all numbers that the run may make.

    Raises:
        ServingError: the server does not answer, or its answer is not a number.
        ContractMismatch: its model is not the C3D model that this release knows, or the PCA was
            fitted on features of another one.
        UsageError: classes are requested, and the model has features only.
        ProvenanceError: the dataset's numbers were made differently, are of the other answer, or
            their classes have other labels.
        OutputError: the PCA cannot be read.
        StorageError: the dataset's folder cannot be written.
    """
    storage = storage_of_run(settings.out, settings.run)
    signature = FC6_FEATURES if settings.answer == "features" else CLASSIFY
    options = settings.serving()
    if settings.patience_s > _FIRST_WAIT_S:
        options = replace(options, patience_s=None)
    with settings.client(options) as c3d:
        _request_one_clip(c3d, signature)
        provenance = Provenance(c3d.provenance())
        labels = c3d.model.info(signature).labels if signature is CLASSIFY else ()
    require_same_dataset(storage, answer=settings.answer, provenance=provenance, labels=labels)
    probe = f"shards/{temporary_prefix(settings.run)}probe"
    storage.write(probe, b"can be written")
    storage.remove(probe)
    return settings.with_provenance(provenance)


def _request_one_clip(c3d: C3DClient, signature: Signature) -> None:
    """Request the answer for a grey clip; the client checks signature, shape and dtype."""
    info = c3d.model.info(signature)
    answer = c3d.serving.predict(signature, np.full((1, *CLIP_SHAPE), _GREY, np.uint8))
    if not np.isfinite(answer.output).all():
        raise c3d.model.unusable("a grey clip", ValueError("a number is NaN or infinity"))
    classes = answer.output.shape[1]
    if signature is CLASSIFY and len(info.labels) != classes:
        raise ContractMismatch(
            c3d.model.target,
            f"the model returns {classes} probabilities and has {len(info.labels)} labels; "
            "export it again",
        )
