"""PCA of features: the fit, its file, and reduced features in every format and command."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from c3d_client import PCA, C3DClient, ClipWindow, fit_pca, read_features, write_features
from c3d_client.core.errors import (
    ContractMismatch,
    OutputError,
    ProvenanceError,
    UsageError,
    VideoError,
)
from c3d_client.core.provenance import Provenance, provenance_digest
from c3d_client.job import ExtractJob
from c3d_client.outputs import FORMATS, convert, read_provenance
from c3d_client.pca import _Sample
from c3d_client.video.sources import expand
from sklearn.decomposition import PCA as SklearnPCA
from support.errors import error_of
from support.fake_serving import model_card
from support.sample_features import PROVENANCE, full_disk, same_features, sample_features
from support.videos import moving_texture, noise, write_video

SIZED = [name for name, entry in FORMATS.items() if entry.any_size]


def rows_of(count, size, *, seed=0, offset=0.0):
    """Return correlated rows, float32, whose variances along their directions differ."""
    random = np.random.default_rng(seed)
    scales = 0.9 ** np.arange(size)
    turned = np.linalg.qr(random.standard_normal((size, size)))[0]
    return (random.standard_normal((count, size)) * scales @ turned + offset).astype(np.float32)


def videos_of(rows, *lengths, **changes):
    """Return features of videos of so many clips with these rows; the last has what is left."""
    ends = np.cumsum(lengths).tolist()
    return [
        sample_features(len(part), clip_features=part, **changes)
        for part in np.split(rows, ends)
        if len(part)
    ]


def sample_pca(dim=3, *, seeds=range(4), **options):
    """Return a PCA of four sample videos of 4096 numbers."""
    return fit_pca([sample_features(seed=seed) for seed in seeds], dim=dim, **options)


class TestFit:
    # Few rows are decomposed by their own products, many by those of their columns.
    @pytest.mark.parametrize(("count", "size"), [(40, 200), (900, 64), (1025, 64), (5000, 64)])
    def test_numbers_are_those_of_scikit_learn(self, count, size):
        rows = rows_of(count, size, offset=3.0)
        for whiten in (False, True):
            fitted = fit_pca(videos_of(rows, count // 3, 1), dim=12, whiten=whiten)
            peer = SklearnPCA(12, whiten=whiten, svd_solver="full").fit(rows.astype(np.float64))
            assert np.allclose(fitted.mean, peer.mean_, rtol=0, atol=1e-9)
            assert np.allclose(fitted.variance, peer.explained_variance_, rtol=1e-9)
            assert np.allclose(fitted.explained, peer.explained_variance_ratio_.cumsum())
            same = (fitted.components * peer.components_).sum(axis=1)
            assert np.allclose(np.abs(same), 1.0, atol=1e-9)
            expected = peer.transform(rows.astype(np.float64)) * np.sign(same)
            assert np.allclose(fitted.project(rows), expected, atol=1e-5)
            assert (fitted.clips, fitted.videos, fitted.size) == (count, 3, size)

    def test_small_variances_around_a_large_mean_keep_their_digits(self):
        rows = rows_of(4000, 16, offset=3000.0)
        centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
        expected = np.linalg.svd(centred, compute_uv=False) ** 2 / 3999
        fitted = fit_pca(videos_of(rows, 1500), dim=16)
        assert np.allclose(fitted.variance, expected, rtol=1e-9)

    def test_same_rows_give_the_same_bytes_however_they_are_cut_into_videos(self):
        rows = rows_of(3000, 32)
        one = fit_pca(videos_of(rows), dim=5)
        assert one.sha256 == fit_pca(videos_of(rows, 7, 1024, 1, 65), dim=5).sha256
        assert one.sha256 == fit_pca(videos_of(rows, 2999), dim=5).sha256
        assert one.sha256 != fit_pca(videos_of(rows[::-1].copy() + 1), dim=5).sha256

    def test_largest_number_of_each_component_is_positive(self):
        for count in (100, 2000):
            components = fit_pca(videos_of(rows_of(count, 32)), dim=9).components
            largest = np.abs(components).argmax(axis=1)
            assert (components[np.arange(9), largest] > 0).all()
            assert np.allclose(components @ components.T, np.eye(9), atol=1e-9)

    def test_features_that_cannot_be_fitted_are_one_clear_line(self):
        good = [sample_features(seed=seed) for seed in range(3)]
        wrong = np.array(good[1].clip_features)
        wrong[2, 7] = np.nan
        endless = np.where(np.isnan(wrong), np.inf, wrong)
        other = {**PROVENANCE, "clips": {**PROVENANCE["clips"], "stride": 4}}
        reduced = sample_pca().apply(good[0])
        same = np.repeat(good[0].clip_features, 4, axis=0)
        large = sample_features(
            clip_features=np.ones((3, 2, 7, 7, 512), np.float32),
            provenance={**PROVENANCE, "layer": "conv5b"},
        )
        for features, options, kind, expected in (
            ([good[0], replace(good[1], clip_features=wrong)], {}, UsageError, "clip 2 of a/zwölf"),
            ([replace(good[1], clip_features=endless)], {}, UsageError, "NaN or infinity"),
            (good, {"dim": 9}, UsageError, "9 clips of 3 videos are too few for 9 dimensions"),
            ([], {}, UsageError, "0 clips of 0 videos are too few"),
            (good, {"dim": 4097}, UsageError, "have 4096 numbers, give 1 to 4096"),
            (good, {"dim": 0}, UsageError, "dim is 0; give a whole number, 1 or more"),
            (good, {"dim": "2"}, UsageError, "dim is '2'; give a whole number"),
            (good, {"dim": 2.0}, UsageError, "dim is 2.0; give a whole number"),
            (good, {"clips": 2}, UsageError, "clips is 2 for 2 dimensions"),
            (good, {"clips": 8.5}, UsageError, "clips is 8.5 for 2 dimensions"),
            (videos_of(same), {"dim": 3}, UsageError, "12 clips vary in 2 directions"),
            ([good[0], replace(good[1], provenance=other)], {}, ProvenanceError, "stride: 8"),
            ([reduced], {}, ProvenanceError, "reduced by a PCA already"),
            (good[0], {}, UsageError, "features is a VideoFeatures; give a list of VideoFeatures"),
            ("a.npz", {}, UsageError, "features is one path, 'a.npz'; give a list of"),
            ([good[0], "a.npz"], {}, UsageError, "features[1] is a str; give VideoFeatures"),
            ([large], {}, UsageError, "a clip of conv5b has 50176 numbers, and a PCA is of 8192"),
        ):
            error = error_of(kind, fit_pca, features, **{"dim": 2, **options})
            assert expected in str(error)
            assert "\n" not in str(error)

    def test_summary_names_shares_of_smaller_numbers_too(self):
        fitted = sample_pca(dim=8)
        shares = 100 * fitted.explained
        assert fitted.summary() == (
            f"8 of 4096 numbers keep {shares[7]:.1f} % of the variance of 12 clips of 4 videos; "
            f"{shares[1]:.1f} % in 2, {shares[3]:.1f} % in 4"
        )
        assert "; " not in sample_pca(dim=1).summary()


class TestSample:
    def test_same_seed_draws_the_same_clips(self):
        videos = videos_of(rows_of(500, 32), 100, 300)
        first = fit_pca(videos, dim=4, clips=60, seed=1)
        assert first.clips == 60
        assert first.videos == 3
        assert first.sha256 == fit_pca(videos, dim=4, clips=60, seed=1).sha256
        assert first.sha256 == fit_pca(videos_of(rows_of(500, 32)), dim=4, clips=60, seed=1).sha256
        assert first.sha256 != fit_pca(videos, dim=4, clips=60, seed=2).sha256

    def test_sample_of_more_clips_than_there_are_is_all_clips(self):
        videos = videos_of(rows_of(500, 32), 100)
        assert fit_pca(videos, dim=4, clips=900).sha256 == fit_pca(videos, dim=4).sha256

    def test_each_clip_is_equally_likely_and_drawn_once(self):
        stream = np.arange(20, dtype=np.float32)[:, None]
        counts = Counter()
        for seed in range(400):
            sample = _Sample(5, seed=seed)
            for part in np.split(stream, [3, 4, 11]):
                sample.add(part)
            drawn = np.concatenate(list(sample.chunks()))[:, 0].tolist()
            sample.close()
            assert len(set(drawn)) == len(drawn) == 5
            counts.update(drawn)
        # 100 of each are expected, with a deviation of 8.7.
        assert len(counts) == 20
        assert 65 < min(counts.values()) <= max(counts.values()) < 135

    def test_full_disk_is_one_line(self):
        videos = [sample_features(20, seed=seed) for seed in range(3)]
        with full_disk(200_000), pytest.raises(OutputError, match="sampled clips cannot be stored"):
            fit_pca(videos, dim=4, clips=50)


class TestFile:
    def test_file_has_everything(self, tmp_path):
        fitted = sample_pca(dim=4, whiten=True)
        fitted.save(tmp_path / "pca.npz")
        read = PCA.load(tmp_path / "pca.npz")
        for name in ("mean", "components", "variance"):
            assert np.array_equal(getattr(read, name), getattr(fitted, name))
        for name in ("total_variance", "clips", "videos", "whiten", "layer", "provenance"):
            assert getattr(read, name) == getattr(fitted, name), name
        assert read.identity == {"sha256": fitted.sha256, "dim": 4, "whiten": True}
        assert read.layer == "fc6"
        assert "video" not in read.provenance
        assert read.provenance["clips"] == PROVENANCE["clips"]
        with np.load(tmp_path / "pca.npz") as archive:  # for other programs
            assert archive["components"].shape == (4, 4096)
        first = (tmp_path / "pca.npz").read_bytes()
        fitted.save(tmp_path / "pca.npz")
        assert (tmp_path / "pca.npz").read_bytes() == first

    def test_damaged_and_foreign_files_are_one_line(self, tmp_path):
        path = tmp_path / "pca.npz"
        sample_pca().save(path)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        with np.load(path) as archive:
            parts = dict(archive)
        about = json.loads(str(parts["about"]))
        cases = [b"", b"text", whole[:50], whole[: len(whole) // 2], whole[:-20], bytes(flipped)]
        for change in (
            {"components": parts["components"] * 2},  # the digest is another one
            {"components": parts["components"].astype(np.float32)},
            {"mean": parts["mean"][1:]},
            {"variance": parts["variance"][:, None]},
            {"about": np.array("not JSON")},
            {"about": np.array(json.dumps({**about, "format": 2}))},
            {"about": np.array(json.dumps({"format": 1}))},
        ):
            np.savez(path, **{**parts, **change})
            cases.append(path.read_bytes())
        write_features(path, sample_features())
        cases.append(path.read_bytes())
        for number, content in enumerate(cases):
            path.write_bytes(content)
            error = error_of(OutputError, PCA.load, path)
            assert str(error).startswith(f"{path}: is not a PCA that c3d pca fit wrote ("), number
            assert "pickle" not in str(error), number  # NumPy advises to load it unsafely
            assert "\n" not in str(error), number
        path.unlink()
        assert "no such file" in str(error_of(OutputError, PCA.load, path))
        assert "Is a directory" in str(error_of(OutputError, PCA.load, tmp_path))
        assert "give a path or URL" in str(error_of(UsageError, PCA.load, 3))

    def test_full_disk_leaves_no_file_and_the_former_one(self, tmp_path):
        sample_pca().save(tmp_path / "pca.npz")
        before = (tmp_path / "pca.npz").read_bytes()
        with full_disk(40_000), pytest.raises(OutputError, match=r"pca.npz: cannot be written"):
            sample_pca(dim=5).save(tmp_path / "pca.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["pca.npz"]
        assert (tmp_path / "pca.npz").read_bytes() == before


class TestReducedFeatures:
    def test_video_feature_is_the_normalised_mean_of_the_reduced_clips(self):
        fitted = sample_pca()
        features = sample_features(70, seed=9)
        reduced = fitted.apply(features)
        expected = (features.clip_features - fitted.mean) @ fitted.components.T
        assert reduced.clip_features.dtype == np.float32
        assert np.allclose(reduced.clip_features, expected, atol=1e-5)
        mean = reduced.clip_features.mean(axis=0, dtype=np.float64)
        assert np.allclose(reduced.video_feature, mean / np.linalg.norm(mean), atol=1e-6)
        assert reduced.provenance == {**PROVENANCE, "pca": fitted.identity}
        assert np.array_equal(reduced.clip_starts, features.clip_starts)

    def test_pca_of_one_video_has_no_feature_for_that_video(self):
        features = sample_features(9)
        fitted = fit_pca([features], dim=3)
        with pytest.raises(UsageError, match="fit the PCA on the clips of more videos"):
            fitted.apply(features)
        assert np.isfinite(fitted.apply(sample_features(9, seed=1)).video_feature).all()

    def test_features_of_another_kind_are_refused(self):
        fitted = sample_pca()
        weights = {**PROVENANCE["model"], "weights": {"sha256": "cd"}}
        clips = PROVENANCE["clips"]
        for change, expected in (
            ({"model": weights}, "model.weights.sha256: 'ab' against 'cd'"),
            ({"layer": "fc7"}, "layer: 'fc6' against 'fc7'"),
            ({"preprocessing": {"resize": "fast"}}, "preprocessing"),
            ({"clips": {**clips, "frame_step": 2}}, "clips.frame_step"),
            ({"clips": {**clips, "fps": 10.0}}, "clips.fps"),
            ({"pca": fitted.identity}, "reduced by a PCA already"),
            ({"layer": "fc7,fc6"}, "layer: 'fc6' against 'fc7'"),
        ):
            features = sample_features(provenance={**PROVENANCE, **change})
            assert expected in str(error_of(ProvenanceError, fitted.apply, features)), change
        for change in (
            {"clips": {**clips, "stride": 16, "tail": "pad"}},
            {"damage": "skip"},
            {"software": {"pyav": "18"}},
            {"layer": "fc6,fc7"},
        ):
            features = sample_features(seed=8, provenance={**PROVENANCE, **change})
            assert fitted.apply(features).provenance["pca"] == fitted.identity, change

    def test_rows_of_another_size_are_refused(self):
        with pytest.raises(UsageError, match="reduces rows of 4096 numbers"):
            sample_pca().project(np.zeros((2, 500), np.float32))

    def test_digest_is_that_of_release_0_1_0_without_a_pca(self):
        fitted = sample_pca()
        without = provenance_digest(PROVENANCE)
        assert without == provenance_digest({**PROVENANCE, "pca": None})
        digests = {
            provenance_digest({**PROVENANCE, "pca": {**fitted.identity, **change}})
            for change in ({}, {"whiten": True}, {"dim": 4}, {"sha256": "00"})
        }
        assert len(digests | {without}) == 5
        assert Provenance(PROVENANCE).feature_size == 4096
        assert Provenance({"pca": fitted.identity}).feature_size == 3

    @pytest.mark.parametrize("name", SIZED)
    def test_format_holds_rows_of_any_size(self, name, tmp_path):
        reduced = sample_pca().apply(sample_features(300, seed=9))
        path = tmp_path / f"a{FORMATS[name].suffix}"
        write_features(path, reduced)
        read = read_features(path)
        assert np.array_equal(read.clip_features, reduced.clip_features)
        if FORMATS[name].lossless:
            assert same_features(read, reduced)
        else:
            assert np.allclose(read.video_feature, reduced.video_feature, atol=1e-6)
        assert read_provenance(path)["pca"] == reduced.provenance["pca"]
        wide = replace(reduced, clip_features=sample_features(300).clip_features)
        with pytest.raises(OutputError, match=r"expected float32 \[300, 3\]"):
            write_features(path, wide)

    def test_formats_of_4096_numbers_are_refused(self, tmp_path):
        reduced = sample_pca().apply(sample_features(seed=9))
        for name in set(FORMATS) - set(SIZED):
            path = tmp_path / f"a{FORMATS[name].suffix}"
            with pytest.raises(OutputError, match=f"{name} holds rows of 4096 numbers, not of 3"):
                write_features(path, reduced)
        assert list(tmp_path.iterdir()) == []
        write_features(tmp_path / "a.npz", reduced)
        for name in set(FORMATS) - set(SIZED):
            (conversion,) = convert([tmp_path / "a.npz"], tmp_path / "out", to=name)
            assert str(conversion.error).startswith(
                f"{tmp_path / 'a.npz'}: {name} holds rows of 4096 numbers, and these have 3 after"
            )
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of different pictures."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 60)
    write_video(folder / "b.mp4", 40, draw=moving_texture, width=176, height=144)
    write_video(folder / "c.mp4", 40, draw=noise)
    return folder


@pytest.fixture(scope="module")
def served(narrow_server, videos, tmp_path_factory):
    """The features of the videos as a folder of files, and a PCA of them in a file."""
    folder = tmp_path_factory.mktemp("served")
    with C3DClient(narrow_server.target) as c3d:
        list(ExtractJob(c3d, folder / "features").run(list(expand([videos]))))
    read = [read_features(path) for path in sorted((folder / "features").iterdir())]
    assert len(read) == 3
    fit_pca(read, dim=3).save(folder / "pca.npz")
    return folder


def run_job(target, videos, out, pca, **options):
    with C3DClient(target, pca=pca) as c3d:
        rows = ExtractJob(c3d, out, **options).run(list(expand([videos])))
        return sorted(row.status for row in rows)


class TestClient:
    def test_extraction_and_conversion_give_the_same_numbers(
        self, narrow_server, videos, served, tmp_path
    ):
        fitted = PCA.load(served / "pca.npz")
        with C3DClient(narrow_server.target, pca=served / "pca.npz") as c3d:
            outcomes = {
                outcome.source.name: outcome.unwrap()
                for outcome in c3d.extract_many(sorted(videos.iterdir()))
            }
            assert c3d.provenance()["pca"] == fitted.identity
        plain = served / "features"
        for conversion in convert([plain], tmp_path, to="npz", pca=served / "pca.npz"):
            assert conversion.error is None
            converted = read_features(conversion.target)
            features = outcomes[conversion.source.name.removesuffix(".npz")]
            assert features.clip_features.shape[1:] == (3,)
            assert np.array_equal(features.clip_features, converted.clip_features)
            assert np.array_equal(features.video_feature, converted.video_feature)
            assert features.provenance == converted.provenance
            rows = read_features(conversion.source).clip_features
            assert np.array_equal(features.clip_features, fitted.project(rows))

    def test_video_without_a_feature_fails_alone(self, narrow_server, videos, served):
        one, *others = sorted(videos.iterdir())
        fitted = fit_pca([read_features(served / "features" / f"{one.name}.npz")], dim=2)
        with C3DClient(narrow_server.target, pca=fitted) as c3d:
            errors = {outcome.source: outcome.error for outcome in c3d.extract_many([one, *others])}
        assert "fit the PCA on the clips of more videos" in str(errors[one])
        assert type(errors[one]) is VideoError
        assert [errors[other] for other in others] == [None] * len(others)
        assert others

    def test_classes_are_not_changed(self, narrow_server, videos, served):
        with (
            C3DClient(narrow_server.target, pca=served / "pca.npz") as c3d,
            C3DClient(narrow_server.target) as plain,
        ):
            one, other = c3d.classify(videos / "b.mp4"), plain.classify(videos / "b.mp4")
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.provenance == other.provenance

    def test_pca_of_another_model_is_refused_before_any_video_is_read(self, fake_serving, served):
        card = model_card(weights={"source": "x", "sha256": "ef" * 32})
        server = fake_serving(card=card)
        with C3DClient(server.target, pca=served / "pca.npz") as c3d:
            for call in (c3d.provenance, lambda: c3d.extract("missing.mp4")):
                error = error_of(ContractMismatch, call)
                assert "pca.npz was fitted on other features: model.weights.sha256" in str(error)
        assert server.requests == []

    def test_pca_of_other_preprocessing_is_refused(self, narrow_server, served):
        window = ClipWindow(resize="fast")
        with (
            C3DClient(narrow_server.target, window=window, pca=served / "pca.npz") as c3d,
            pytest.raises(ContractMismatch, match=r"preprocessing\.resize"),
        ):
            c3d.provenance()

    def test_run_is_continued_with_the_same_pca_only(self, narrow_server, videos, served, tmp_path):
        target, out = narrow_server.target, tmp_path / "out"
        one = PCA.load(served / "pca.npz")
        assert run_job(target, videos, out, one) == ["done"] * 3
        assert run_job(target, videos, out, served / "pca.npz") == ["skipped"] * 3
        features = [read_features(path) for path in sorted((served / "features").iterdir())]
        for pca, expected in (
            (None, f"pca {one.sha256[:12]}, not none"),
            (fit_pca(features, dim=2), "dim 3, not 2"),
            (replace(one, whiten=True), "whiten False, not True"),
        ):
            error = error_of(ProvenanceError, run_job, target, videos, out, pca)
            assert expected in str(error)
        error = error_of(ProvenanceError, run_job, target, videos, served / "features", one)
        assert f"pca none, not {one.sha256[:12]}" in str(error)

    def test_rows_of_the_first_layer_are_reduced_and_the_others_stay(
        self, narrow_server, videos, tmp_path
    ):
        paths, target = sorted(videos.iterdir()), narrow_server.target
        for layers in (("fc7",), ("pool5", "fc6")):
            with C3DClient(target, layers=layers) as c3d:
                plain = [c3d.extract(path) for path in paths]
            fitted = fit_pca(plain, dim=3)
            assert fitted.layer == layers[0]
            assert fitted.size == plain[0].video_feature.size
            with C3DClient(target, layers=layers, pca=fitted) as c3d:
                reduced = c3d.extract(paths[0])
            assert np.array_equal(reduced.clip_features, fitted.project(plain[0].clip_features))
            assert reduced.layers.keys() == set(layers[1:])
            for suffix in (".npz", ".npy", ".h5"):
                write_features(tmp_path / f"a{suffix}", reduced)
                read = read_features(tmp_path / f"a{suffix}")
                assert same_features(read, reduced), (layers, suffix)
                for name in layers[1:]:
                    assert np.array_equal(read.layers[name], plain[0].layers[name])
            with C3DClient(target, pca=fitted) as c3d:
                error = error_of(ContractMismatch, c3d.provenance)
                assert f"layer: '{layers[0]}' against 'fc6'" in str(error)

    def test_format_that_cannot_hold_the_rows_is_refused_at_once(
        self, narrow_server, videos, served, tmp_path
    ):
        pca = served / "pca.npz"
        for name in set(FORMATS) - set(SIZED):
            for call in (
                lambda name=name: run_job(
                    narrow_server.target, videos, tmp_path / "out", pca, format=name
                ),
                lambda name=name: convert(
                    [served / "features"], tmp_path / "out", to=name, pca=pca
                ),
            ):
                error = error_of(UsageError, call)
                assert "these have 3 after PCA; leave out the PCA, or choose npz, npy" in str(error)
        assert not (tmp_path / "out").exists()


class TestCommands:
    def test_fit_extract_and_convert(self, run, narrow_server, videos, served, tmp_path):
        plain, pca = served / "features", tmp_path / "new" / "pca.npz"
        for given in ([plain], [plain / "*.npz"], sorted(plain.iterdir())):
            code, printed, errors = run("pca", "fit", *given, "--dim", "3", "--out", pca)
            assert (code, errors) == (0, []), given
            assert printed == f"{pca}: {PCA.load(pca).summary()}\n"
            assert "3 of 4096 numbers keep " in printed
            assert PCA.load(pca).sha256 == PCA.load(served / "pca.npz").sha256
        for name in ("one", "two"):
            out = tmp_path / name
            if name == "one":
                server = ("--server", narrow_server.target)
                code, _, errors = run("extract", videos, *server, "--pca", pca, "--out", out)
            else:
                arguments = ("--to", "npz", "--out", out, "--pca", pca)
                code, _, errors = run("convert", plain, *arguments)
            assert code == 0, errors
        for path in sorted((tmp_path / "one").iterdir()):
            assert same_features(read_features(path), read_features(tmp_path / "two" / path.name))

    def test_options_of_the_fit(self, run, served, tmp_path):
        pca = tmp_path / "pca.npz"
        options = ("--dim", "2", "--out", pca, "--whiten", "--clips", "6", "--seed", "3")
        assert run("pca", "fit", served / "features", *options)[0] == 0
        read = PCA.load(pca)
        assert (read.dim, read.whiten, read.clips) == (2, True, 6)

    def test_bad_input_is_one_line_and_writes_nothing(self, run, served, tmp_path):
        out = tmp_path / "pca.npz"
        (tmp_path / "means").mkdir()
        write_features(tmp_path / "means" / "a_C.txt", sample_features())
        (tmp_path / "mixed").mkdir()
        for seed, provenance in enumerate((PROVENANCE, {**PROVENANCE, "layer": "fc7"})):
            path = tmp_path / "mixed" / f"{seed}.npz"
            write_features(path, sample_features(seed=seed, provenance=provenance))
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn" / "a.npz").write_bytes(b"torn")
        for given, expected in (
            ((tmp_path / "means",), "sultani holds 32 means and no clips"),
            (
                (tmp_path / "mixed",),
                f"of {tmp_path / 'mixed' / '0.npz'} and {tmp_path / 'mixed' / '1.npz'} were made "
                "differently and cannot be mixed: layer: 'fc6' against 'fc7'",
            ),
            ((tmp_path / "torn",), "torn/a.npz: holds no C3D features"),
            ((tmp_path / "none-*.npz",), "none-*.npz: no file or folder matches this pattern"),
            ((tmp_path / "absent.npz",), "absent.npz: no such file"),
            ((tmp_path / "absent",), "absent: no such file or folder; give what has features"),
            ((served / "features", "--dim", "4000"), "are too few for 4000 dimensions"),
            ((served / "features", "--dim", "5000"), "give 1 to 4096"),
        ):
            code, printed, errors = run("pca", "fit", "--out", out, *given)
            assert (code, printed, len(errors)) == (2, "", 1), given
            assert expected in errors[0]
            assert not out.exists(), given

    def test_convert_refuses_features_that_do_not_fit_before_it_writes(self, run, served, tmp_path):
        write_features(tmp_path / "other.npz", sample_features())
        out = tmp_path / "out"
        arguments = ("--to", "npy", "--out", out, "--pca", served / "pca.npz")
        code, _, errors = run("convert", served / "features", tmp_path / "other.npz", *arguments)
        assert code == 2
        assert "was fitted on other features" in errors[0]
        assert not out.exists()
