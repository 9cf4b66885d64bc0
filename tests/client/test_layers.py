"""Layers other than fc6: requests, results, files, folders that are continued, and the command."""

import json
import tracemalloc
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
from c3d_client import C3DClient, ServingOptions, read_features, read_npz, write_features
from c3d_client.core.contract import LAYERS
from c3d_client.core.errors import ContractMismatch, OutputError, ServingError, UsageError
from c3d_client.core.files import CHUNK_ROWS, chunk_rows, row_chunks
from c3d_client.core.provenance import Provenance, provenance_digest, require_same
from c3d_client.outputs import FORMATS, convert, iter_features, output_path, read_provenance
from c3d_client.outputs.sultani import segment_means
from c3d_client.pca import fit_pca
from c3d_client.results import RowStore
from c3d_client.video.clips import ClipWindow, iter_batches
from c3d_client.video.decode import decode_frames
from c3d_export.local_server import LocalServer
from support.errors import error_of
from support.fake_serving import model_card, plain_output, signature_defs
from support.sample_features import (
    PROVENANCE,
    full_disk,
    names_in,
    same_features,
    sample_features,
)
from support.videos import write_video

SHAPES = {
    "conv5b": (2, 7, 7, 32),
    "pool5": (1, 4, 4, 32),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (487,),
}
ANY_LAYERS = [name for name, entry in FORMATS.items() if entry.any_layers]


def requests_of(server):
    """Return the signature and the filter of each request that a fake server got."""
    return [(r.model_spec.signature_name, tuple(r.output_filter)) for r in server.requests]


def layers_server(fake_serving, *layers, **changes):
    """Start a fake server whose model has these layers."""
    return fake_serving(
        signatures=signature_defs(layers=layers), card=model_card(layers=list(layers)), **changes
    )


def former_server(fake_serving):
    """Start a fake server whose model is of release 0.1.0."""
    return fake_serving()


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A video of four clips."""
    return write_video(tmp_path_factory.mktemp("sample") / "video.mp4", 40)


@pytest.fixture(scope="module")
def expected(narrow_server, sample):
    """The layers of the sample's clips, from the graph without gRPC."""
    (batch,) = iter_batches(decode_frames(sample), ClipWindow(), size=8)
    return narrow_server.servable.run("layers", {"clips": batch.pixels})


class TestExtract:
    @pytest.mark.long
    def test_rows_are_those_of_the_graph(self, narrow_server, sample, expected):
        for wanted in (
            *([layer] for layer in LAYERS),
            ["fc6", "fc7", "pool5"],
            ["fc8", "conv5b"],
            list(LAYERS),
        ):
            with C3DClient(narrow_server.target, layers=wanted) as c3d:
                result = c3d.extract(sample)
            rows = {wanted[0]: result.clip_features, **result.layers}
            assert list(rows) == wanted
            for layer, array in rows.items():
                assert array.dtype == np.float32
                assert array.shape == (4, *SHAPES[layer])
                assert array == pytest.approx(expected[layer], rel=1e-5, abs=1e-5), layer
            mean = rows[wanted[0]].astype(np.float64).mean(axis=0).reshape(-1)
            assert result.video_feature.shape == mean.shape
            assert result.video_feature == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)

    def test_many_videos_have_the_layers(self, narrow_server, sample, expected):
        with C3DClient(narrow_server.target, layers=("pool5", "fc7")) as c3d:
            for outcome in c3d.extract_many([sample] * 3, workers=2):
                result = outcome.unwrap()
                assert result.clip_features == pytest.approx(expected["pool5"], rel=1e-5, abs=1e-5)
                assert result.layers["fc7"] == pytest.approx(expected["fc7"], rel=1e-5, abs=1e-5)

    def test_batches_of_any_size_have_the_same_rows(self, narrow_server, sample):
        results = []
        for size in (1, 3, 8):
            options = ServingOptions(narrow_server.target, batch_size=size)
            with C3DClient(options=options, layers=["conv5b", "fc8"]) as c3d:
                results.append(c3d.extract(sample))
        for result in results[1:]:
            close = {"rel": 1e-5, "abs": 1e-4}
            assert result.clip_features == pytest.approx(results[0].clip_features, **close)
            assert result.layers["fc8"] == pytest.approx(results[0].layers["fc8"], **close)

    def test_provenance_names_the_layers_unless_they_are_fc6(self, narrow_server, sample):
        digests = set()
        for layers, recorded in (
            (["fc6"], None),
            (["fc7"], "fc7"),
            (["fc6", "pool5"], "fc6,pool5"),
            (["pool5", "fc6"], "pool5,fc6"),
        ):
            with C3DClient(narrow_server.target, layers=layers) as c3d:
                assert c3d.layers == tuple(layers)
                provenance = c3d.extract(sample).provenance
                assert provenance.get("layer") == c3d.provenance().get("layer") == recorded
                assert Provenance(provenance).layers == tuple(layers)
                digests.add(provenance_digest(provenance))
                # Probabilities are those of the model, whatever the layers of features are.
                assert "layer" not in c3d.classify(sample).provenance
        assert len(digests) == 4

    def test_features_of_different_layers_are_not_mixed(self, narrow_server, sample):
        provenances = []
        for layers in (["fc6"], ["fc7"]):
            with C3DClient(narrow_server.target, layers=layers) as c3d:
                provenances.append(c3d.extract(sample).provenance)
        with pytest.raises(Exception, match="layer: 'fc6' against 'fc7'"):
            require_same(provenances)


class TestRequests:
    EVERY = tuple(LAYERS)

    @pytest.mark.parametrize(
        ("layers", "request_"),
        [
            (["fc6"], ("fc6_features", ())),
            (["fc7"], ("layers", ("fc7",))),
            (["pool5"], ("layers", ("pool5",))),
            (["fc6", "fc7"], ("layers", ())),
            (["fc8", "pool5", "conv5b"], ("layers", ())),
        ],
    )
    def test_one_layer_has_a_filter_and_several_have_none(
        self, fake_serving, video, layers, request_
    ):
        server = layers_server(fake_serving, *self.EVERY)
        with C3DClient(server.target, layers=layers) as c3d:
            result = c3d.extract(video)
        assert set(requests_of(server)) == {request_}
        rows = {layers[0]: result.clip_features, **result.layers}
        assert list(rows) == layers
        if request_[0] == "layers":
            for layer, array in rows.items():  # as the fake server fills each layer
                first = rows[layers[0]].reshape(2, -1)[:, :1] / (1 + self.EVERY.index(layers[0]))
                expected = (1 + self.EVERY.index(layer)) * first
                assert array.reshape(2, -1) == pytest.approx(np.tile(expected, array[0].size))

    def test_both_encodings_of_tensors_are_read(self, fake_serving, video):
        server = layers_server(fake_serving, *self.EVERY)
        results = []
        for server.as_content in (False, True):
            with C3DClient(server.target, layers=self.EVERY) as c3d:
                results.append(c3d.extract(video))
        for layer, rows in results[0].layers.items():
            assert np.array_equal(rows, results[1].layers[layer])

    def test_fc7_of_a_former_model_has_its_own_signature(self, fake_serving, video):
        server = former_server(fake_serving)
        with C3DClient(server.target, layers=["fc7"]) as c3d:
            result = c3d.extract(video)
        assert set(requests_of(server)) == {("fc7_features", ())}
        assert result.provenance["layer"] == "fc7"

    @pytest.mark.parametrize(
        ("layers", "problem"),
        [
            (["pool5"], r"has no layer pool5 \(it has: fc6, fc7\)"),
            (["fc6", "conv5b", "fc8"], r"has no layer conv5b, fc8 \(it has: fc6, fc7\)"),
            (["fc6", "fc7"], "gives one of fc6, fc7 at a time, not several"),
        ],
    )
    def test_layer_that_a_former_model_lacks_is_one_line(
        self, fake_serving, video, layers, problem
    ):
        server = former_server(fake_serving)
        with C3DClient(server.target, layers=layers) as c3d:
            for call in (lambda: c3d.extract(video), c3d.provenance):
                text = str(error_of(UsageError, call))
                assert server.target in text
                assert "export it again with this release's c3d-export build" in text
                assert "\n" not in text
                with pytest.raises(UsageError, match=problem):
                    call()
            with pytest.raises(UsageError, match=problem):
                list(c3d.extract_many([video]))
        assert server.requests == []

    def test_weights_without_fc8_are_named(self, fake_serving, video):
        server = layers_server(fake_serving, *self.EVERY[:-1])
        with (
            C3DClient(server.target, layers=["fc6", "fc8"]) as c3d,
            pytest.raises(UsageError, match="no layer fc8 .*: its weights end at fc7"),
        ):
            c3d.extract(video)

    def test_model_without_fc7_is_named(self, fake_serving, video):
        signatures = signature_defs()
        del signatures["fc7_features"]
        server = fake_serving(signatures=signatures)
        with (
            C3DClient(server.target, layers=["fc7"]) as c3d,
            pytest.raises(UsageError, match=r"no layer fc7 \(it has: fc6\)"),
        ):
            c3d.extract(video)

    def test_another_version_without_the_signature_is_requested_as_it_can_be(
        self, fake_serving, video
    ):
        """As in a roll-back, while one version's card is known and another one answers."""
        server = layers_server(fake_serving, *self.EVERY)
        with C3DClient(server.target, layers=["fc7"]) as c3d:
            c3d.model_info()
            server.signatures, server.card, server.version = signature_defs(), model_card(), 1
            result = c3d.extract(video)
            assert {name for name, _ in requests_of(server)} == {"fc7_features"}
        assert result.clip_features.shape == (2, 4096)
        with C3DClient(server.target, layers=["pool5"]) as c3d:
            server.signatures = signature_defs(layers=self.EVERY)
            server.card = model_card(layers=list(self.EVERY))
            c3d.model_info()
            server.signatures, server.card = signature_defs(), model_card()
            with pytest.raises(UsageError, match="has no layer pool5"):
                c3d.extract(video)

    def test_answers_that_are_no_layers_are_errors(self, fake_serving, video):
        def answer(change):
            def on_predict(request, rows, context):
                outputs = plain_output("layers", rows, self.EVERY)
                change(outputs)
                return outputs

            server = layers_server(fake_serving, *self.EVERY, on_predict=on_predict)
            with C3DClient(server.target, layers=["fc6", "pool5"]) as c3d:
                return c3d.extract(video)

        def fill_nan(outputs):
            outputs["pool5"][-1, 0, 0, 0, 0] = np.nan

        with pytest.raises(ContractMismatch, match="layers answered without 'pool5'"):
            answer(lambda outputs: outputs.pop("pool5"))
        with pytest.raises(ContractMismatch, match=r"2 rows of pool5 with shape \[2, 8, 1, 4, 4\]"):
            answer(lambda o: o.update(pool5=np.moveaxis(o["pool5"], -1, 1)))
        with pytest.raises(ServingError, match="cannot be used: pool5 holds NaN or infinity"):
            answer(fill_nan)
        assert answer(lambda outputs: None).layers["pool5"].shape == (2, 1, 4, 4, 8)

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ("fc7", r"layers is 'fc7'; give a list of names, such as \['fc6', 'pool5'\]"),
            (None, "layers is None; give a list of names"),
            ([], "the layers are none; choose one or more of conv5b, pool5, fc6, fc7, fc8"),
            (["fc9"], "the layers are fc9; choose one or more"),
            (["fc6", "fc6"], "the layers are fc6, fc6; choose .* each once"),
        ],
    )
    def test_arguments_that_are_no_layers_are_refused(self, layers, message):
        with pytest.raises(UsageError, match=message):
            C3DClient("localhost:1", layers=layers)


@pytest.mark.long
def test_halves_are_sent_for_fc6_alone(narrow_gpu_base, carphone):
    server = LocalServer(narrow_gpu_base)
    server.start()
    names, predict = [], server.predict

    def recorded(request, servable):
        names.append(request.model_spec.signature_name)
        return predict(request, servable)

    server.predict = recorded
    features = {}
    try:
        for layers in (["fc6"], ["fc7"], ["fc6", "fc7"]):
            names.clear()
            with C3DClient(server.target, layers=layers) as c3d:
                features[tuple(layers)] = c3d.extract(carphone)
            expected = "fc6_features_halves" if layers == ["fc6"] else "layers"
            assert expected in names, layers
            assert ("fc6_features_halves" in names) == (layers == ["fc6"])
    finally:
        server.stop(5)
    both = features[("fc6", "fc7")]
    fc6, fc7 = features[("fc6",)], features[("fc7",)]
    assert both.clip_features == pytest.approx(fc6.clip_features, rel=1e-5, abs=1e-5)
    assert both.layers["fc7"] == pytest.approx(fc7.clip_features, rel=1e-5, abs=1e-5)
    assert both.video_feature == pytest.approx(fc6.video_feature, abs=1e-6)


def sample_layers(*layers, clips=3, seed=0):
    """Return sample features of these layers."""
    rng = np.random.default_rng(seed)
    rows = {
        layer: np.maximum(rng.standard_normal((clips, *SHAPES[layer]), np.float32), 0)
        for layer in layers
    }
    first = rows.pop(layers[0])
    mean = first.mean(axis=0, dtype=np.float64).reshape(-1)
    layer = {} if layers == ("fc6",) else {"layer": ",".join(layers)}
    return sample_features(
        clips,
        clip_features=first,
        layers=rows,
        video_feature=(mean / np.linalg.norm(mean)).astype(np.float32),
        provenance={**PROVENANCE, **layer},
    )


def same_layers(features, expected):
    return (
        same_features(features, expected)
        and list(features.layers) == list(expected.layers)
        and all(
            features.layers[layer].dtype == np.float32
            and np.array_equal(features.layers[layer], rows)
            for layer, rows in expected.layers.items()
        )
    )


class TestFiles:
    @pytest.mark.parametrize("name", ANY_LAYERS)
    def test_what_is_written_is_read(self, tmp_path, name):
        assert ANY_LAYERS == ["npz", "npy", "h5"]
        for layers in (
            *((layer,) for layer in LAYERS),
            ("fc6", "fc7", "pool5"),
            ("conv5b", "fc8"),
            tuple(LAYERS),
        ):
            for clips in (1, 3, 70):
                path = tmp_path / f"video.mp4{FORMATS[name].suffix}"
                features = sample_layers(*layers, clips=clips)
                write_features(path, features)
                assert same_layers(read_features(path), features), (layers, clips)
                assert read_provenance(path) == features.provenance

    def test_other_programs_read_each_layer(self, tmp_path):
        features = sample_layers("fc6", "fc7", "pool5")
        for name in ANY_LAYERS:
            write_features(tmp_path / f"a.mp4{FORMATS[name].suffix}", features)
        with np.load(tmp_path / "a.mp4.npz") as archive:
            assert np.array_equal(archive["clip_features"], features.clip_features)
            assert np.array_equal(archive["fc7"], features.layers["fc7"])
            assert np.array_equal(archive["pool5"], features.layers["pool5"])
        with h5py.File(tmp_path / "a.mp4.h5", "r") as file:
            assert np.array_equal(file["pool5"][...], features.layers["pool5"])
        assert np.array_equal(np.load(tmp_path / "a.mp4.npy"), features.clip_features)
        for layer in ("fc7", "pool5"):
            rows = np.load(tmp_path / f"a.mp4.{layer}.npy", mmap_mode="r")
            assert np.array_equal(rows, features.layers[layer])
        content = read_npz(tmp_path / "a.mp4.npz")
        assert list(content)[-2:] == ["fc7", "pool5"]

    def test_other_formats_hold_fc6_or_fc7(self, tmp_path):
        for name, entry in FORMATS.items():
            path = tmp_path / f"{name}{entry.suffix}"
            if entry.any_layers:
                continue
            for layers in (("pool5",), ("fc8",), ("fc6", "fc7"), ("conv5b",)):
                message = str(error_of(OutputError, write_features, path, sample_layers(*layers)))
                assert f"{name} holds fc6 or fc7 alone, not {', '.join(layers)}" in message
                assert "choose npz, npy or h5" in message
                assert names_in(tmp_path) == []
            features = sample_layers("fc7")
            write_features(path, features)
            read = read_features(path)
            if name == "sultani":
                assert read.clip_features.shape == (32, 4096)
            else:
                assert np.array_equal(read.clip_features, features.clip_features), name
            assert read_provenance(path)["layer"] == "fc7"
            for written in tmp_path.iterdir():
                if written.is_dir():
                    assert names_in(written)[0] == "000000.fc7-1"
                    for each in written.iterdir():
                        each.unlink()
                    written.rmdir()
                else:
                    written.unlink()

    def test_folder_of_the_original_c3d_with_fc7_alone_is_read_as_fc7(self, tmp_path):
        folder = tmp_path / "video.fc6"
        write_features(folder, sample_layers("fc7"))
        (folder / "provenance.json").unlink()
        assert read_provenance(folder) == {"layer": "fc7"}
        assert read_features(folder).provenance["layer"] == "fc7"
        # With both, fc6 is read, as by earlier releases.
        fc6 = sample_layers("fc6", seed=4)
        write_features(tmp_path / "other.fc6", fc6)
        for each in (tmp_path / "other.fc6").glob("*.fc6-1"):
            each.rename(folder / each.name)
        assert read_provenance(folder) == {}
        assert np.array_equal(read_features(folder).clip_features, fc6.clip_features)

    @pytest.mark.parametrize("name", ANY_LAYERS)
    def test_arrays_that_are_no_layers_are_refused(self, tmp_path, name):
        path = tmp_path / f"video{FORMATS[name].suffix}"
        good = sample_layers("fc6", "pool5")
        pool5 = good.layers["pool5"]
        for changes, expected in (
            ({"layers": {}}, "the layers after the first are none; expected pool5"),
            ({"layers": {"fc7": good.clip_features}}, "are fc7; expected pool5"),
            ({"layers": {"pool5": pool5[:2]}}, "pool5 is float32 [2, 1, 4, 4, 32]; expected"),
            ({"layers": {"pool5": np.float64(pool5)}}, "pool5 is float64"),
            ({"layers": {"pool5": np.moveaxis(pool5, -1, 1)}}, "expected float32 [3, 1, 4, 4, n]"),
            ({"video_feature": good.video_feature[:7]}, "video_feature is float32 [7]"),
            (
                {"provenance": {**PROVENANCE, "layer": "pool5"}, "layers": {}},
                "clip_features is float32 [3, 4096]",
            ),
            (
                {"provenance": {**PROVENANCE, "layer": "fc6,conv4b"}},
                "layer conv4b; this release knows conv5b, pool5, fc6, fc7, fc8",
            ),
        ):
            error = error_of(OutputError, write_features, path, replace(good, **changes))
            assert expected in str(error), changes
            assert names_in(tmp_path) == []

    @pytest.mark.parametrize("name", ANY_LAYERS)
    def test_full_disk_keeps_the_earlier_result(self, tmp_path, name):
        path = tmp_path / f"video{FORMATS[name].suffix}"
        # pool5 has 82 kB of 40 clips, fc7 has 655 kB.
        for layers in (("fc6", "fc7", "pool5"), ("pool5", "fc7"), ("fc7", "pool5")):
            before = sample_layers(*layers, clips=40)
            write_features(path, before)
            names = names_in(tmp_path)
            after = sample_layers(*layers, clips=44, seed=1)
            for size in (0, 10_000, 300_000, 700_000):
                with full_disk(size):
                    error_of(OutputError, write_features, path, after)
                assert names_in(tmp_path) == names, (layers, size)
                assert same_layers(read_features(path), before), (layers, size)

    def test_disk_that_is_full_at_the_end_of_the_sidecar_keeps_the_earlier_result(self, tmp_path):
        """Before the sidecar is written to its end, no layer has taken its name."""
        before, after = (sample_layers("fc6", "pool5", clips=1, seed=seed) for seed in (1, 2))
        for name in ("a", "b"):
            write_features(tmp_path / f"{name}.npy", before if name == "a" else after)
        size = (tmp_path / "b.npy.json").stat().st_size
        with full_disk(size - 10):
            error_of(OutputError, write_features, tmp_path / "a.npy", after)
        assert same_layers(read_features(tmp_path / "a.npy"), before)
        with full_disk(size):
            write_features(tmp_path / "a.npy", after)
        assert same_layers(read_features(tmp_path / "a.npy"), after)

    def test_damage_of_a_layer_is_an_error(self, tmp_path):
        path = tmp_path / "a.mp4.npy"
        pool5 = tmp_path / "a.mp4.pool5.npy"

        def check(expected, *readers):
            for reader in readers:
                assert expected in str(error_of(OutputError, reader, path)), reader

        write_features(path, sample_layers("fc6", "pool5"))
        content = pool5.read_bytes()
        pool5.write_bytes(content[:-4] + b"\1\2\3\4")
        check("its bytes are not those", read_features)
        pool5.write_bytes(content[:-4])
        check("cut short", read_features)
        check("does not have the 6272 bytes", read_provenance)
        pool5.unlink()
        check("a.mp4.pool5.npy, which belongs to it, is missing", read_features, read_provenance)
        for name in ("npz", "h5"):
            other = tmp_path / f"video{FORMATS[name].suffix}"
            write_features(other, sample_layers("fc6"))
            provenance = {**PROVENANCE, "layer": "fc6,pool5"}
            if name == "h5":
                with h5py.File(other, "a") as file:
                    file.attrs["provenance"] = json.dumps(provenance)
            else:
                arrays = {k: v for k, v in np.load(other).items() if k != "provenance"}
                np.savez(other, **arrays, provenance=json.dumps(provenance))
            for reader in (read_features, read_provenance):
                assert "pool5" in str(error_of(OutputError, reader, other)), (name, reader)

    def test_files_of_layers_are_those_of_the_last_result(self, tmp_path):
        path = tmp_path / "a.mp4.npy"
        write_features(path, sample_layers("fc6", "fc7", "pool5"))
        assert names_in(tmp_path) == [
            *("a.mp4.fc7.npy", "a.mp4.npy", "a.mp4.npy.json", "a.mp4.pool5.npy")
        ]
        write_features(path, sample_layers("fc7", "pool5"))
        assert names_in(tmp_path) == ["a.mp4.npy", "a.mp4.npy.json", "a.mp4.pool5.npy"]
        write_features(path, sample_layers("fc6"))
        assert names_in(tmp_path) == ["a.mp4.npy", "a.mp4.npy.json"]

    def test_features_of_another_video_are_not_replaced_by_a_layer(self, tmp_path):
        other = tmp_path / "a.mp4.pool5.npy"  # of a video that is called a.mp4.pool5
        write_features(other, sample_features())
        message = str(
            error_of(
                OutputError, write_features, tmp_path / "a.mp4.npy", sample_layers("fc6", "pool5")
            )
        )
        assert "a.mp4.pool5.npy has the features of another video" in message
        assert same_features(read_features(other), sample_features())
        assert names_in(tmp_path) == ["a.mp4.pool5.npy", "a.mp4.pool5.npy.json"]

    def test_layer_of_another_video_is_not_replaced_by_features(self, tmp_path):
        features = sample_layers("fc6", "pool5")
        write_features(tmp_path / "a.mp4.npy", features)
        other = tmp_path / "a.mp4.pool5.npy"
        message = str(error_of(OutputError, write_features, other, sample_features()))
        assert "it is a layer of the features of another video" in message
        assert same_layers(read_features(tmp_path / "a.mp4.npy"), features)

    def test_longest_names_have_layers_too(self, tmp_path):
        features = sample_layers("fc6", "conv5b")
        for letter in ("x", "é", "影"):
            path = output_path(tmp_path, letter * (250 // len(letter.encode())) + ".mp4", "npy")
            write_features(path, features)
            assert same_layers(read_features(path), features)
        assert len(list(convert([tmp_path], tmp_path / "out", to="npz"))) == 3

    def test_conversion_keeps_the_layers(self, tmp_path):
        features = sample_layers("pool5", "fc7")
        (tmp_path / "npz").mkdir()
        write_features(tmp_path / "npz" / "a.npz", features)
        for source, target in (("npz", "npy"), ("npy", "h5"), ("h5", "npz")):
            (done,) = convert([tmp_path / source], tmp_path / target, to=target)
            assert done.error is None
            assert same_layers(read_features(done.target), features), target

    def test_files_of_a_pattern_are_one_video_for_all_layers(self, tmp_path):
        features = sample_layers("fc6", "fc7")
        for letter in ("a", "影" * 80):
            write_features(output_path(tmp_path, f"{letter}.mp4", "npy"), features)
        files = sorted(tmp_path.glob("*.npy"))
        assert len(files) == 4
        done = list(convert(files, tmp_path / "out", to="h5"))
        assert [conversion.error for conversion in done] == [None, None]
        assert len(list(iter_features([f"{tmp_path}/*.npy"]))) == 2
        (alone,) = convert([tmp_path / "a.mp4.fc7.npy"], tmp_path / "out", to="h5")
        assert "a.mp4.fc7.npy.json, which belongs to it, is missing" in str(alone.error)

    def test_conversion_to_a_format_of_one_layer_names_the_file(self, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        for name, layers in (("a", ("pool5",)), ("b", ("fc7",)), ("c", ("fc6", "fc7"))):
            write_features(source / f"{name}.npz", sample_layers(*layers))
        for target in ("parquet", "caffe", "sultani"):
            done = list(convert([source], tmp_path / target, to=target))
            outcomes = {conversion.source.name: conversion for conversion in done}
            assert outcomes["b.npz"].error is None
            for name, layers in (("a.npz", "pool5"), ("c.npz", "fc6, fc7")):
                message = str(outcomes[name].error)
                assert message.startswith(str(source / name))
                assert f"the format {target} holds fc6 or fc7 alone, not {layers}" in message
        read = read_features(tmp_path / "parquet" / "b.parquet")
        assert np.array_equal(read.clip_features, sample_layers("fc7").clip_features)
        lines = read_features(tmp_path / "sultani" / "b_C.txt").clip_features
        expected = segment_means(sample_layers("fc7").clip_features)
        assert lines == pytest.approx(expected, abs=1e-6)


class TestMemory:
    def test_chunks_of_long_rows_have_a_megabyte(self):
        assert chunk_rows((4096,)) == chunk_rows((487,)) == chunk_rows((-1,)) == CHUNK_ROWS == 64
        assert chunk_rows((1, 4, 4, 512)) == 32
        assert chunk_rows((2, 7, 7, 512)) == 5
        assert chunk_rows((1 << 30,)) == 1

    def test_rows_of_conv5b_are_in_a_temporary_file(self, tmp_path, monkeypatch):
        """300 clips of conv5b of the full network are 60 MB."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        tracemalloc.start()
        store = RowStore()
        for number in range(60):
            store.add(np.full((5, 2, 7, 7, 512), number, np.float32))
        rows = store.array()
        read = sum(len(chunk) for chunk in row_chunks(rows))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(rows, np.memmap)
        assert rows.shape == (300, 2, 7, 7, 512)
        assert rows[299, 1, 6, 6, 511] == 59
        assert read == 300
        assert peak < 5_000_000
        assert names_in(tmp_path) == []


class TestCommand:
    @pytest.fixture
    def videos(self, tmp_path):
        folder = tmp_path / "videos"
        folder.mkdir()
        write_video(folder / "a.mp4", 24)
        write_video(folder / "b.mp4", 32)
        return folder

    def test_each_layer_is_an_array_of_its_own(self, run, narrow_server, videos, tmp_path):
        results = {}
        for name in ANY_LAYERS:
            out = tmp_path / name
            code, _, stderr = run(
                *("extract", videos, "--out", out, "--server", narrow_server.target),
                *("--layer", "fc6,fc7,pool5", "--format", name),
            )
            assert code == 0, stderr
            results[name] = read_features(out / f"b.mp4{FORMATS[name].suffix}")
        assert names_in(tmp_path / "npy") == [
            *("a.mp4.fc7.npy", "a.mp4.npy", "a.mp4.npy.json", "a.mp4.pool5.npy"),
            *("b.mp4.fc7.npy", "b.mp4.npy", "b.mp4.npy.json", "b.mp4.pool5.npy"),
        ]
        with C3DClient(narrow_server.target, layers=["fc6", "fc7", "pool5"]) as c3d:
            expected = c3d.extract(videos / "b.mp4")
        for name, result in results.items():
            assert result.provenance == expected.provenance, name
            assert list(result.layers) == ["fc7", "pool5"]
            for layer, rows in expected.layers.items():
                assert result.layers[layer] == pytest.approx(rows, rel=1e-5, abs=1e-5)

    def test_folder_of_another_layer_is_refused(self, run, narrow_server, videos, tmp_path):
        out = tmp_path / "out"
        extract = ("extract", videos, "--out", out, "--server", narrow_server.target)
        assert run(*extract)[0] == 0
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        for layers in ("fc7", "fc6,pool5"):
            code, _, stderr = run(*extract, "--layer", layers)
            assert code == 2
            assert f"2 of 2 done files were made with layer fc6, not {layers}" in stderr[-1]
            assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        code, _, stderr = run(*extract, "--layer", "fc6")
        assert (code, stderr[-1]) == (0, "c3d: 0 videos done, 0 clips; 2 skipped, done before")
        assert run(*extract, "--layer", "fc7, pool5", "--overwrite")[0] == 0
        assert read_provenance(out / "a.mp4.npz")["layer"] == "fc7,pool5"
        code, _, stderr = run(*extract, "--layer", "fc7,pool5")
        assert (code, stderr[-1]) == (0, "c3d: 0 videos done, 0 clips; 2 skipped, done before")

    def test_formats_of_one_layer_are_refused_before_any_request(
        self, run, fake_serving, videos, tmp_path
    ):
        server = fake_serving()
        for name in ("parquet", "caffe", "activitynet", "sultani"):
            code, stdout, stderr = run(
                *("extract", videos, "--out", tmp_path / "out", "--server", server.target),
                *("--format", name, "--layer", "fc6,fc7"),
            )
            assert (code, stdout) == (2, "")
            assert stderr == [
                f"c3d: the format {name} holds fc6 or fc7 alone, not fc6, fc7; choose npz, npy "
                "or h5"
            ]
        assert server.specs == server.requests == []
        assert not (tmp_path / "out").exists()

    def test_layers_under_own_names_are_refused_where_they_collide(
        self, run, narrow_server, tmp_path
    ):
        videos, out = tmp_path / "videos", tmp_path / "out"
        videos.mkdir()
        for name in ("a.mp4", "a.pool5.mp4"):
            write_video(videos / name, 16)
        extract = ("extract", videos, "--out", out, "--server", narrow_server.target)
        named = ("--name", "{stem}.npy", "--layer")
        code, stdout, stderr = run(*extract, *named, "fc6,pool5")
        assert (code, stdout, len(stderr)) == (2, "", 1)
        assert f"would both be written to {out / 'a.pool5.npy'}" in stderr[0]
        assert not out.exists()
        assert run(*extract, *named, "fc6,fc7")[0] == 0
        assert names_in(out) == [
            *("a.fc7.npy", "a.npy", "a.npy.json"),
            *("a.pool5.fc7.npy", "a.pool5.npy", "a.pool5.npy.json"),
        ]
        assert run(*extract, "--name", "{stem}.npz", "--layer", "fc6,pool5")[0] == 0

    def test_layers_of_frames_and_of_a_pca(self, run, narrow_server, tmp_path):
        """With what other options give in and take away."""
        frames = tmp_path / "frames" / "a"
        frames.mkdir(parents=True)
        for number in range(24):
            cv2.imwrite(str(frames / f"{number:03}.png"), np.full((120, 160, 3), number, np.uint8))
        out = tmp_path / "out"
        extract = ("extract", "--frames", tmp_path / "frames", "--server", narrow_server.target)
        code, _, stderr = run(*extract, "--out", out, "--layer", "fc7,pool5", "--format", "h5")
        assert code == 0, stderr
        (path,) = out.glob("*.h5")
        features = read_features(path)
        assert features.clip_features.shape == (2, 4096)
        assert features.layers["pool5"].shape == (2, 1, 4, 4, 32)
        write_video(tmp_path / "b.mp4", 80)
        with C3DClient(narrow_server.target, layers=["fc7"]) as c3d:
            pca = fit_pca([c3d.extract(tmp_path / "b.mp4")], dim=3)
        pca.save(tmp_path / "pca.npz")
        reduce = ("--pca", tmp_path / "pca.npz", "--out", tmp_path / "reduced")
        code, _, stderr = run(*extract, *reduce, "--layer", "fc7")
        assert code == 0, stderr
        (path,) = (tmp_path / "reduced").glob("*.npz")
        reduced = read_features(path)
        assert reduced.clip_features.shape == (2, 3)
        assert reduced.clip_features == pytest.approx(pca.project(features.clip_features), abs=1e-3)
        code, stdout, stderr = run(*extract, *reduce, "--layer", "fc6")
        assert (code, stdout) == (2, "")
        assert "was fitted on other features: layer: 'fc7' against 'fc6'" in stderr[-1]

    def test_unknown_layer_is_one_line(self, run, closed_port, videos, tmp_path):
        for layers, shown in (("fc9", "fc9"), ("", "none"), ("fc6,,fc7", "fc6, , fc7")):
            code, stdout, stderr = run(
                *("extract", videos, "--out", tmp_path / "out", "--server", closed_port),
                *("--layer", layers),
            )
            assert (code, stdout) == (2, "")
            assert stderr == [
                f"c3d: the layers are {shown}; choose one or more of conv5b, pool5, fc6, fc7, "
                "fc8, each once"
            ]
        assert not (tmp_path / "out").exists()

    def test_layer_that_the_model_lacks_is_one_line(self, run, fake_serving, videos, tmp_path):
        server = fake_serving()
        code, stdout, stderr = run(
            *("extract", videos, "--out", tmp_path / "out", "--server", server.target),
            *("--layer", "fc6,pool5"),
        )
        assert (code, stdout, len(stderr)) == (2, "", 1)
        assert "has no layer pool5 (it has: fc6, fc7): export it again" in stderr[0]
        assert not (tmp_path / "out").exists()
