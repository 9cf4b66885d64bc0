"""Building and publishing: versions count up, and a failed build leaves nothing."""

import errno
import stat
from dataclasses import replace

import pytest
from c3d_export import servable
from c3d_export.errors import ExportError, VerificationError
from c3d_export.graph import GraphServable
from c3d_export.servable import build
from c3d_export.warmup import WARMUP_FILE


@pytest.fixture
def spec(tiny_weights, make_spec):
    return make_spec(tiny_weights)


@pytest.mark.long
def test_versions_count_up_and_other_names_are_ignored(spec, tmp_path):
    for name in ("draft", "7.bak", "v9", "²"):
        (tmp_path / name).mkdir()
    paths = [build(spec, tmp_path)[0] for _ in range(2)]
    assert paths == [tmp_path / "1", tmp_path / "2"]
    assert all((path / "saved_model.pb").is_file() for path in paths)
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "9").mkdir()
    (tmp_path / "10").mkdir()
    assert build(spec, tmp_path, over_trained=True)[0] == tmp_path / "11"


def test_version_is_complete_and_readable_by_the_servers_user(tiny_base):
    version = tiny_base / "1"
    files = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
    assert files >= {
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        str(WARMUP_FILE),
    }
    assert stat.S_IMODE(version.stat().st_mode) == 0o755
    for path in version.rglob("*"):
        mode = 0o555 if path.is_dir() else 0o444
        assert path.stat().st_mode & mode == mode, path


@pytest.mark.long
def test_build_returns_the_verification(spec, tmp_path):
    _, verification = build(spec, tmp_path / "not" / "yet" / "there")
    assert set(verification.differences) == {
        *("classify", "serving_default", "fc6_features", "fc7_features", "layers")
    }
    assert max(verification.differences.values()) < 1e-5
    assert (verification.warmup_run, verification.warmup_left) == (9, 0)


class TestFailure:
    """After any failure there is no version and no unfinished folder."""

    def test_file_with_the_folders_name_leaves_nothing(self, spec, tmp_path):
        (tmp_path / "c3d").write_text("mine")
        with pytest.raises(
            ExportError, match=r"c3d: the model's folder cannot be read \(Not a directory"
        ):
            build(spec, tmp_path / "c3d")
        assert (tmp_path / "c3d").read_text() == "mine"
        with pytest.raises(ExportError, match=r"models: .* \(Not a directory"):
            build(spec, tmp_path / "c3d" / "models")

    @pytest.mark.long
    def test_full_disk_leaves_nothing(self, spec, tmp_path, monkeypatch):
        def full(*_args, **_options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(servable, "write_warmup", full)
        with pytest.raises(ExportError, match=r"the disk is full \(No space left on device"):
            build(spec, tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.long
    def test_failed_verification_leaves_nothing(self, spec, tmp_path, monkeypatch):
        write_warmup = servable.write_warmup

        def write_damaged(version, **options):
            path = write_warmup(version, **options)
            path.write_bytes(path.read_bytes()[:-3])

        monkeypatch.setattr(servable, "write_warmup", write_damaged)
        (tmp_path / "1").mkdir()
        with pytest.raises(VerificationError, match="damaged warm-up file"):
            build(spec, tmp_path, over_trained=True)
        assert [path.name for path in tmp_path.iterdir()] == ["1"]

    def test_interrupt_leaves_nothing(self, spec, tmp_path, monkeypatch):
        def interrupt(*_args, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(servable, "verify", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(spec, tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.long
class TestMistakeInTheExport:
    """Each mistake is made on purpose in the export; the build must detect it."""

    def check_error(self, spec, base, match):
        with pytest.raises(VerificationError, match=match):
            build(spec, base)
        assert list(base.iterdir()) == []

    def test_kernel_not_converted_to_rgb_is_detected(self, spec, tmp_path, monkeypatch):
        monkeypatch.setattr(servable, "swap_red_and_blue", dict)
        self.check_error(spec, tmp_path, "conv1/kernel differs from the source")

    def test_mean_not_converted_to_rgb_is_detected(self, spec, tmp_path, monkeypatch):
        save = servable.save
        swapped = replace(spec.mean, bgr=spec.mean.bgr[..., ::-1])  # save() swaps it back
        monkeypatch.setattr(
            servable,
            "save",
            lambda spec, folder, **options: save(replace(spec, mean=swapped), folder, **options),
        )
        self.check_error(spec, tmp_path, "mean differs from the source")

    @pytest.mark.long
    @pytest.mark.parametrize(
        "padding", [((0, 0), (1, 0), (1, 0)), ((0, 0), (0, 1), (1, 0))], ids=["both", "columns"]
    )
    def test_pool5_padded_on_the_other_side_is_detected(self, spec, tmp_path, monkeypatch, padding):
        build_c3d, layers = servable.build_c3d, servable.keras.layers
        zero_padding = layers.ZeroPadding3D

        def build_shifted(**options):
            with monkeypatch.context() as patch:
                patch.setattr(
                    layers,
                    "ZeroPadding3D",
                    lambda _padding, **named: zero_padding(padding, **named),
                )
                return build_c3d(**options)

        monkeypatch.setattr(servable, "build_c3d", build_shifted)
        self.check_error(
            spec, tmp_path, "fc6_features differs from the Keras model by .* more than 1e-05"
        )

    def test_fc7_returned_for_fc6_is_detected(self, spec, tmp_path, monkeypatch):
        monkeypatch.setitem(servable._LAYER_OF, servable.FC6_FEATURES, "fc7")
        self.check_error(spec, tmp_path, "fc6_features differs from the Keras model")

    def test_another_contract_version_is_detected(self, spec, tmp_path, monkeypatch):
        monkeypatch.setattr(servable, "CONTRACT_VERSION", "0")
        self.check_error(spec, tmp_path, "contract version is '0'")


def test_python_reload_computes_the_same_as_the_server(tiny_base, clips):
    """A naive export is right in Python and fails in the server; this one is right in both."""
    reloaded = servable.tf.saved_model.load(str(tiny_base / "1"))
    python = reloaded.signatures["fc6_features"](clips=clips[:1])["features"].numpy()
    with GraphServable(tiny_base / "1") as graph:
        served = graph.run("fc6_features", {"clips": clips[:1]})["features"]
    assert python == pytest.approx(served, rel=1e-4, abs=1e-4)
