"""A SavedModel in a graph-mode session: loaded and run as by TensorFlow Serving.

The server never runs Python. It imports the MetaGraph, runs the restore operation that the
MetaGraph names, and then the signatures' tensors. Loading with ``tf.saved_model.load`` instead
rebuilds Python objects, and can succeed on exports that fail on every call in the server.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from c3d_client.core.contract import MODEL_CARD
from c3d_client.core.provenance import ModelCard
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, saved_model_pb2

from c3d_export.errors import VerificationError

_SERVE_TAG = "serve"
_INIT_OP = "__saved_model_init_op"
# TensorFlow 2.20 writes these lines at the first run of any session, at every log level.
_STARTUP_LINES = (
    b"All log messages before absl::InitializeLog() is called",
    b"MLIR V1 optimization pass is not enabled",
)


class GraphServable:
    """A loaded version folder. Close it, or use it as a context manager.

    Args:
        path: the version's folder, e.g. ``models/c3d/1``.

    Attributes:
        path: the version's folder.
        meta_graph: the SavedModel's graph.
        signatures: its SignatureDefs by name, as the server lists them: with
            ``__saved_model_init_op``, which has no inputs and cannot be run.

    Raises:
        VerificationError: the folder has no SavedModel, or it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        _drop_startup_lines()
        self.path = path
        self.meta_graph = _read_meta_graph(path)
        self.signatures: dict[str, Any] = dict(self.meta_graph.signature_def)
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.compat.v1.train.import_meta_graph(self.meta_graph)
            self.session = tf.compat.v1.Session(graph=graph)
            self._restore()
        except (tf.errors.OpError, ValueError, KeyError) as error:
            raise VerificationError(f"{path}: cannot be loaded ({_first_line(error)})") from error
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}

    def _restore(self) -> None:
        saver = self.meta_graph.saver_def
        self.session.run(
            saver.restore_op_name,
            {saver.filename_tensor_name: str(self.path / "variables" / "variables")},
        )
        init = self.meta_graph.signature_def.get(_INIT_OP)
        if init is not None:
            self.session.run(init.outputs[_INIT_OP].name.split(":")[0])

    def __enter__(self) -> GraphServable:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the session and its variables."""
        self.session.close()

    def run(
        self,
        signature: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: tuple[str, ...] = (),
    ) -> dict[str, npt.NDArray[Any]]:
        """Run one signature; thread-safe.

        Args:
            signature: the signature's name.
            inputs: an array for each input, by alias.
            outputs: the aliases to compute; all by default.

        Returns:
            An array for each output, by alias.

        Raises:
            KeyError: no such signature, input or output.
            tf.errors.OpError: a kernel refuses the inputs.
        """
        definition = self.signatures[signature]
        aliases = outputs or tuple(sorted(definition.outputs))
        for alias, known in (
            *((alias, definition.inputs) for alias in inputs),
            *((alias, definition.outputs) for alias in aliases),
        ):
            if alias not in known:  # reading it would add it to the signature
                raise KeyError(alias)
        feeds = tuple(definition.inputs[alias].name for alias in inputs)
        fetches = tuple(definition.outputs[alias].name for alias in aliases)
        # A callable made from options calls the C++ session directly, whose kernels check the
        # shapes, as in the server. Session.run, and the public make_callable with feeds, would
        # check them before, in Python, and raise a ValueError.
        key = (feeds, fetches)
        if key not in self._callables:
            self._callables[key] = self.session._make_callable_from_options(
                config_pb2.CallableOptions(feed=feeds, fetch=fetches)
            )
        values = self._callables[key](*inputs.values())
        return dict(zip(aliases, map(np.asarray, values), strict=True))


def read_card(servable: GraphServable) -> ModelCard:
    """Return a loaded servable's model card.

    Raises:
        VerificationError: there is no card, or it is of another contract version.
    """
    one_row = {MODEL_CARD.input.name: np.zeros(1, np.int32)}
    try:
        text = servable.run(MODEL_CARD.name, one_row)[MODEL_CARD.output.name][0]
    except (KeyError, tf.errors.OpError) as error:
        raise VerificationError(
            f"{servable.path}: has no readable {MODEL_CARD.name} ({error}); "
            "it was not built by c3d-export build"
        ) from error
    try:
        return ModelCard.from_json(text)
    except ValueError as error:
        raise VerificationError(f"{servable.path}: {error}") from error


def weights_note(card: ModelCard) -> str:
    """Return the weights' source, with the card's warning for their users."""
    note = card.weights.get("note")
    return f"weights {card.weights.get('source')}{f' ({note})' if note else ''}"


@functools.cache
def _drop_startup_lines() -> None:
    """Run a constant once, and drop the lines that TensorFlow writes on its first run of a session.

    Every other line reaches standard error, which is redirected for this constant only, so that
    the messages of a crash in a model are never hidden.
    """
    with (
        tf.Graph().as_default(),
        tf.compat.v1.Session() as session,
        contextlib.ExitStack() as stack,
    ):
        constant = tf.constant(0)
        try:
            captured = stack.enter_context(tempfile.TemporaryFile())
            terminal = stack.enter_context(os.fdopen(os.dup(2), "wb"))
        except OSError:  # no folder for temporary files, or standard error is closed
            return
        os.dup2(captured.fileno(), 2)
        try:
            session.run(constant)
        finally:
            os.dup2(terminal.fileno(), 2)
            captured.seek(0)
            for line in captured:
                if not any(known in line for known in _STARTUP_LINES):
                    terminal.write(line)


def _read_meta_graph(path: Path) -> Any:
    file = path / "saved_model.pb"
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except OSError as error:
        raise VerificationError(
            f"{path}: no SavedModel there ({file.name}: {error.strerror}); "
            "give a version's folder, such as models/c3d/1"
        ) from error
    except DecodeError as error:
        raise VerificationError(f"{file}: damaged; it is not a SavedModel") from error
    for meta_graph in saved_model.meta_graphs:
        if _SERVE_TAG in meta_graph.meta_info_def.tags:
            return meta_graph
    raise VerificationError(f"{file}: has no graph with the tag {_SERVE_TAG!r}")


def _first_line(error: BaseException) -> str:
    message = str(getattr(error, "message", None) or error)
    # Session.run puts this line, and an empty one, before the kernel's message.
    return message.removeprefix("Graph execution error:").strip().splitlines()[0]
