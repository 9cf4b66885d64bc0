"""Before the first shard: is the server there, is its model the right one, can results be kept?

What would make every shard fail is found here in seconds, and said once.
"""

from __future__ import annotations

import threading

import numpy as np
from c3d_client import C3DClient
from c3d_client.core.contract import CLASSIFY, CLIP_SHAPE, FC6_FEATURES, Signature
from c3d_client.core.errors import ContractMismatch
from c3d_client.core.files import TEMPORARY_PREFIX

from c3d_pipelines.dataset.card import require_same_dataset
from c3d_pipelines.settings import JobSettings
from c3d_pipelines.shards.retry import Patience, ServerGone
from c3d_pipelines.storage import Storage

# A server that was just told to start may take so long; a mistyped address should not take longer.
_WAIT_S = 20.0
_GREY = 128


def preflight(settings: JobSettings) -> JobSettings:
    """Ask the server for its model and for one clip, and see that the dataset may hold the answers.

    A server that does not answer yet is waited for, 20 seconds at most.

    Returns:
        The settings with the provenance of all numbers that the run may make.

    Raises:
        ServingError: the server does not answer, or its answer is no number.
        ContractMismatch: its model is not C3D's as this release knows it.
        UsageError: classes are asked for, and the model gives features only.
        ProvenanceError: the dataset's numbers were made differently, or are of the other kind.
        StorageError: the dataset's place cannot be written.
    """
    storage = Storage(settings.out)
    signature = FC6_FEATURES if settings.answer == "features" else CLASSIFY
    with settings.client() as c3d:
        patience = Patience(
            c3d.serving.options,
            patience_s=min(settings.patience_s, _WAIT_S),
            check=lambda info: None,
            restarts=False,
        )
        stop = threading.Event()
        try:
            patience.do(lambda: _ask_for_a_clip(c3d, signature), stop)
        except ServerGone as gone:
            raise gone.error from None
        finally:
            patience.close()
        provenance = c3d.provenance()
    require_same_dataset(storage, answer=settings.answer, provenance=provenance)
    probe = f"shards/{TEMPORARY_PREFIX}{settings.run}"
    storage.write(probe, b"can be written")
    storage.remove(probe)
    return settings.with_provenance(provenance)


def _ask_for_a_clip(c3d: C3DClient, signature: Signature) -> None:
    """One grey clip; signature, shape and type are held against the contract on the way."""
    info = c3d.model.info(signature)
    answer = c3d.serving.predict(signature, np.full((1, *CLIP_SHAPE), _GREY, np.uint8))
    if not np.isfinite(answer.output).all():
        raise c3d.model.unusable("a grey clip", ValueError("a number is NaN or infinity"))
    classes = answer.output.shape[1]
    if signature is CLASSIFY and len(info.labels) != classes:
        raise ContractMismatch(
            c3d.model.target,
            f"the model gives {classes} probabilities and names {len(info.labels)} labels; "
            "export it again",
        )
