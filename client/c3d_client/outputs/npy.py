"""``.npy``: the clip features as one plain array, and a JSON sidecar with the rest.

``NAME.npy`` is float32 ``[n, 4096]``, or ``[n, dim]`` after PCA. ``NAME.npy.json`` has
``video_feature``, ``clip_starts``, ``clip_times_s`` (null where unknown), ``provenance``, and the
other file's ``bytes`` and ``crc32``. Of several layers, ``NAME.npy`` is the first and
``NAME.LAYER.npy`` each further one; the sidecar has their ``bytes`` and ``crc32`` under ``layers``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from c3d_client.core.contract import LAYERS
from c3d_client.core.files import MAX_NAME_BYTES, cut_name
from c3d_client.core.provenance import Provenance
from c3d_client.outputs.npy_io import (
    ChecksumFile,
    check_crc,
    read_rows,
    read_sidecar,
    sidecar_of,
    write_array,
    write_several_with_sidecar,
)
from c3d_client.outputs.validation import (
    collect_rows,
    make_features,
    parse_object,
    provenance_json,
    row_shapes,
)
from c3d_client.results import VideoFeatures


def write(path: Path, features: VideoFeatures) -> None:
    """Write a video's features: the clips' file last, so that one that exists is complete.

    Raises:
        OSError: a file cannot be written, or has another layer or the features of another video.
    """
    provenance_json(features)  # refuses a provenance that is not JSON before anything is written
    times = features.clip_times_s
    content = {
        "video_feature": features.video_feature.tolist(),
        "clip_starts": features.clip_starts.tolist(),
        # JSON has no NaN.
        "clip_times_s": np.where(np.isnan(times), None, times).tolist(),  # type: ignore[call-overload]
        "provenance": features.provenance,
    }
    if os.path.exists(path) and is_further_layer(path):
        raise FileExistsError(None, "it is a layer of the features of another video")
    further = {layer: layer_path(path, layer) for layer in features.layers}
    for each in further.values():
        if os.path.exists(sidecar_of(each)):  # Path.exists raises for a name that is too long
            raise FileExistsError(None, f"{each.name} has the features of another video")
    former = _layers_written_at(path)
    with write_several_with_sidecar(path, content, further) as (file, files):
        write_array(file, features.clip_features)
        for layer, array in features.layers.items():
            write_array(files[layer], array)
    for layer in former - further.keys():
        layer_path(path, layer).unlink(missing_ok=True)


def read(path: Path) -> VideoFeatures:
    """Read a video's features from the array and its sidecar."""
    content, provenance = read_sidecar(path)
    (_, first), *further = row_shapes(provenance).items()
    rows = _checked_rows(path, first, content, name="clip_features")
    return make_features(
        clip_features=rows,
        layers={
            layer: _checked_rows(
                layer_path(path, layer), shape, content["layers"][layer], name=layer
            )
            for layer, shape in further
        },
        provenance=provenance,
        clip_starts=np.array(content["clip_starts"], np.int64),
        clip_times_s=np.array(content["clip_times_s"], np.float64),
        video_feature=np.array(content["video_feature"], np.float32),
    )


def read_provenance(path: Path) -> Provenance:
    """Read the provenance from the sidecar, if the arrays have the sizes that the sidecar gives."""
    content, provenance = read_sidecar(path)
    for layer in provenance.layers[1:]:
        file, size = layer_path(path, layer), content["layers"][layer]["bytes"]
        if file.stat().st_size != size:
            raise ValueError(f"{file.name} does not have the {size} bytes that were written")
    return provenance


def layer_path(path: Path, layer: str) -> Path:
    """Return the path of a layer after the first, next to that of the first."""
    end = f".{layer}.npy"
    return path.with_name(cut_name(path.name.removesuffix(".npy"), MAX_NAME_BYTES - len(end)) + end)


def is_further_layer(path: Path) -> bool:
    """Return whether a file is a layer after the first of the features of another file."""
    stem, dot, layer = path.name.removesuffix(".npy").rpartition(".")
    if not dot or layer not in LAYERS or os.path.exists(sidecar_of(path)):
        return False
    is_cut = len(os.fsencode(path.name)) > MAX_NAME_BYTES - 4  # cut at a whole character
    return is_cut or os.path.exists(sidecar_of(path.with_name(f"{stem}.npy")))


def _checked_rows(
    path: Path, shape: tuple[int, ...], described: dict[str, int], *, name: str
) -> npt.NDArray[np.float32]:
    with path.open("rb") as raw:
        file = ChecksumFile(raw)
        rows = collect_rows(read_rows(file, shape, name=name))
    check_crc(described, file)
    return rows


def _layers_written_at(path: Path) -> set[str]:
    """Return the layers after the first that an earlier file of this path has."""
    with contextlib.suppress(OSError, ValueError):
        layers = parse_object(sidecar_of(path).read_bytes()).get("layers")
        return LAYERS.keys() & set(layers or ())
    return set()
