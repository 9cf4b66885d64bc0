"""The target of a build: precisions that this CPU lacks, reduced verification, notes on speed."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from c3d_export import cli, cpu, verify
from c3d_export.card import stored_card
from c3d_export.graph import GraphServable
from c3d_export.servable import build
from c3d_export.warmup import read_warmup
from c3d_export.weights import canonical, random_weights
from support.processes import LONG_S

X86 = "processor\t: 0\nvendor_id\t: x\nflags\t\t: fpu sse2 avx2 fma {}\nbugs\t\t: spectre_v1\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd crc32 {}\nCPU part\t: 0xd4f\n\n"
CPUS = {
    "avx2": X86.format("f16c"),
    "avx512": X86.format("avx512f avx512_vnni"),
    "avx512-bf16": X86.format("avx512f avx512_vnni avx512_bf16"),
    "amx": X86.format("avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile"),
    "arm": ARM.format("sve"),
    "arm-bf16": ARM.format("sve bf16 i8mm"),
    "unknown": "processor\t: 0\n",
    "macos": None,
}
NATIVE = {"avx512-bf16", "amx", "arm-bf16"}
BUILD = ("build", "--weights", "random:3", "--width", "8", "--batch-sizes", "1,2")
SIGNATURES = ("classify", "fc6_features", "fc7_features", "layers", "serving_default")


@pytest.fixture(scope="module")
def weights():
    return random_weights(3, width=2, classes=3)


@pytest.fixture
def machine(monkeypatch, tmp_path_factory):
    """Give this process the flags of another CPU, and no GPU."""
    file = tmp_path_factory.mktemp("proc") / "cpuinfo"

    def machine(name, *, exact=False):
        # The processor that runs this test may not have what its flags now claim.
        tolerance = 2e-2 if exact else 6e-2
        monkeypatch.setitem(verify.TOLERANCES, "bfloat16", tolerance)
        file.unlink(missing_ok=True)
        if CPUS[name] is not None:
            file.write_text(CPUS[name] * 2)
        monkeypatch.setattr(cpu, "CPU_INFO", file)
        monkeypatch.setattr(verify.tf.config, "list_physical_devices", lambda _kind: [])
        return file

    return machine


def card_of(version):
    with GraphServable(version) as servable:
        (text,) = servable.run("model_card", {"n": np.zeros(1, np.int32)})["json"]
    return json.loads(text)


class TestCpu:
    def test_float32_is_fast_and_float16_slow_on_every_cpu(self, machine):
        for name in CPUS:
            machine(name)
            assert cpu.slow_reason("float32") is None, name
            assert "float16 slowly on every CPU" in cpu.slow_reason("float16"), name

    def test_bfloat16_is_fast_where_the_flags_have_it(self, machine):
        for name in CPUS:
            file = machine(name)
            reason = cpu.slow_reason("bfloat16")
            assert (reason is None) == (name in NATIVE), name
            if name in ("unknown", "macos"):
                assert reason.startswith(f"{file} cannot be read, so this CPU counts as one"), name
            elif reason:
                assert f"{file} lacks amx_bf16, avx512_bf16, bf16" in reason, name

    def test_bfloat16_is_slow_without_onednn(self, machine, monkeypatch):
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        for name in CPUS:
            machine(name)
            assert cpu.slow_reason("float32") is None, name
            assert cpu.slow_reason("bfloat16"), name
            assert ("TF_ENABLE_ONEDNN_OPTS=0" in cpu.slow_reason("bfloat16")) == (name in NATIVE)
            assert cpu.bfloat16_note() is None, name

    def test_note_has_the_speed_that_was_measured(self, machine):
        speeds = {"amx": "about 4 times as fast", "avx512-bf16": "about 1.4 times as fast"}
        speeds["arm-bf16"] = "perhaps faster (not measured)"
        for name in CPUS:
            machine(name)
            note = cpu.bfloat16_note()
            assert (note is None) == (name not in NATIVE), name
            if note:
                assert f"--precision bfloat16 is {speeds[name]} here" in note, name
                assert "fc6 cosine of 0.99998" in note, name

    def test_flags_of_this_machine_are_read(self):
        try:
            expected = cpu.CPU_INFO.read_text()
        except OSError:
            pytest.skip("this system has no /proc/cpuinfo")
        assert "flags" not in expected or "fpu" in cpu._flags()


class TestRefusal:
    """A precision that this CPU computes slowly, for CPUs like it: one line, nothing written."""

    def test_bfloat16_is_refused_on_a_cpu_without_it(self, machine, refused, tmp_path):
        for name in sorted({*CPUS} - NATIVE):
            file = machine(name)
            line = refused(*BUILD, "--precision", "bfloat16", "--out", tmp_path / "c3d")
            assert line.startswith("c3d-export: --precision bfloat16 for --target cpu: "), name
            assert str(file) in line, name
            assert "give --precision float32, or --target gpu if the servers have GPUs" in line
            assert "or --elsewhere if they have other CPUs" in line

    @pytest.mark.long
    def test_float16_is_refused_on_every_cpu(self, machine, refused, tmp_path):
        for name in CPUS:
            machine(name)
            line = refused(*BUILD, "--precision", "float16", "--out", tmp_path / "c3d")
            assert (
                "--precision float16 for --target cpu: TensorFlow computes float16 slowly" in line
            )

    def test_a_gpu_here_does_not_allow_it_for_cpus(self, machine, refused, tmp_path, monkeypatch):
        machine("avx2")
        monkeypatch.setattr(verify.tf.config, "list_physical_devices", lambda _kind: ["GPU:0"])
        line = refused(*BUILD, "--precision", "bfloat16", "--out", tmp_path / "c3d")
        assert "for --target cpu" in line

    def test_unknown_target_is_refused(self, refused, tmp_path):
        line = refused(*BUILD, "--target", "tpu", "--out", tmp_path / "c3d")
        assert "'tpu' is not one of 'cpu', 'gpu'" in line


@pytest.mark.long
class TestReducedVerification:
    @pytest.fixture
    def computed(self, monkeypatch):
        """The signature and the number of rows of each request of a verification."""
        requests, run = [], GraphServable.run

        def recorded(self, signature, inputs, outputs=()):
            requests.append((signature, *(len(array) for array in inputs.values())))
            return run(self, signature, inputs, outputs)

        monkeypatch.setattr(GraphServable, "run", recorded)
        return requests

    def test_one_clip_for_each_signature_is_computed(
        self, machine, weights, make_spec, tmp_path, computed
    ):
        machine("avx2")
        reduced = [
            ({"precision": "bfloat16"}, {"elsewhere": True}),
            ({"precision": "float16"}, {"elsewhere": True}),
            ({"precision": "float16", "target": "gpu"}, {}),
            ({"precision": "float32", "target": "gpu"}, {}),
        ]
        for changes, options in reduced:
            computed.clear()
            spec = make_spec(weights, **changes, batch_sizes=(1, 2))
            version, verification = build(spec, tmp_path / "c3d", **options)
            clips = sorted(request for request in computed if request[0] != "model_card")
            # Halves of one clip, and one half alone.
            halves = [("fc6_features_halves", rows) for rows in (1, 2) if "target" in changes]
            assert clips == sorted([*((name, 1) for name in SIGNATURES), *halves]), changes
            assert {*verification.differences} == {name for name, _ in clips}, changes
            assert verification.reduced, changes
            assert verification.warmup_run == 1, changes
            assert verification.warmup_left == len([*read_warmup(version)]) - 1, changes
            assert card_of(version)["verified"] == "reduced", changes

    def test_all_is_computed_where_the_machine_can(
        self, machine, weights, make_spec, tmp_path, monkeypatch
    ):
        machine("amx")
        full = [
            ({"precision": "float32"}, {}),
            ({"precision": "bfloat16"}, {}),
            # Nothing is left out because the servers are elsewhere, if this CPU can do it.
            ({"precision": "bfloat16"}, {"elsewhere": True}),
        ]
        for changes, options in full:
            spec = make_spec(weights, **changes)
            version, verification = build(spec, tmp_path / "c3d", **options)
            assert not verification.reduced, changes
            assert verification.warmup_left == 0, changes
            assert "verified" not in card_of(version), changes

        monkeypatch.setattr(verify.tf.config, "list_physical_devices", lambda _kind: ["GPU:0"])
        spec = make_spec(weights, precision="bfloat16", target="gpu")
        version, verification = build(spec, tmp_path / "c3d")
        assert not verification.reduced
        assert "verified" not in card_of(version)

    def test_digest_does_not_depend_on_the_verification(self, machine, weights, make_spec):
        spec = make_spec(weights, precision="bfloat16")
        digests = set()
        for name in ("avx2", "amx"):
            machine(name)
            digests.add(spec.digest)
        assert digests == {spec.digest}

    def test_output_and_verify_say_so(self, machine, run, tmp_path):
        machine("avx2")
        reduced = (*BUILD, "--precision", "bfloat16", "--elsewhere", "--out", tmp_path / "c3d")
        code, out, err = run(*reduced)
        assert code == 0, err
        version = tmp_path / "c3d" / "1"
        requests = len([*read_warmup(version)])
        left = (
            f"{requests - 1} requests NOT run, one clip for each signature instead; verify again "
            "on a machine like the servers'"
        )
        assert left in out
        assert err.count("\n") == 1
        assert "this CPU has no arithmetic for bfloat16" in err
        assert "one clip for each signature is verified, which may take minutes" in err

        code, out, err = run("verify", version)
        assert code == 0
        assert left in out
        assert "in full" not in out
        assert err.count("\n") == 1

        machine("amx")
        code, out, err = run("verify", version)
        assert (code, err) == (0, "")
        assert f"{requests} requests run" in out
        assert "NOT run" not in out
        assert out.splitlines()[-1] == (
            "note: verified in full now; its build verified one clip for each signature"
        )

        # The same inputs make no second version, also where this machine could verify all of it.
        code, out, err = run(*BUILD, "--precision", "bfloat16", "--unless-in", tmp_path / "c3d")
        assert (code, err) == (0, "")
        first, second = out.splitlines()
        assert first.startswith(f"{version}: has the same inputs")
        assert second == (
            "note: its build verified one clip for each signature; "
            f"c3d-export verify {version} runs all"
        )

    def test_repeated_full_build_has_no_note(self, run, tiny_base, tmp_path):
        base = tmp_path / "c3d"
        run(*BUILD, "--out", base)
        assert stored_card(base / "1").get("verified") is None
        code, out, _ = run(*BUILD, "--unless-in", base)
        assert (code, out.count("\n")) == (0, 1)


class TestTolerance:
    @pytest.mark.long
    def test_bfloat16_may_differ_more_where_the_cpu_lacks_it(
        self, machine, weights, make_spec, tmp_path, monkeypatch
    ):
        """TensorFlow rounds its sums there, by 3.2e-2 of their length."""
        machine("avx2")
        version, _ = build(make_spec(weights, precision="bfloat16"), tmp_path, elsewhere=True)
        allowed = []
        monkeypatch.setattr(verify, "_compare", lambda *args, **_options: allowed.append(args[2]))
        for name in ("avx2", "amx"):
            machine(name, exact=True)
            verify.verify(version)
        assert allowed == [6e-2, 2e-2]

    @pytest.mark.long
    def test_a_cpu_without_bfloat16_builds_it_for_others(self, tmp_path):
        """Without oneDNN this CPU computes as one that lacks bfloat16: it rounds the sums."""
        process = subprocess.run(
            [sys.executable, "-m", "c3d_export", *BUILD, "--precision", "bfloat16", "--elsewhere"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
            check=False,
        )
        assert process.returncode == 0, process.stderr
        lines = map(str.split, process.stdout.splitlines())
        differences = {words[0]: words[1] for words in lines if words[2:3] == ["from"]}
        assert 2e-2 < float(differences["fc6_features"]) < 6e-2
        assert stored_card(tmp_path / "models" / "c3d" / "1")["verified"] == "reduced"


@pytest.mark.long
class TestProgress:
    def test_each_request_that_takes_long_is_named(self, tiny_base, monkeypatch):
        monkeypatch.setattr(verify, "_SLOW_S", 0.01)
        lines, arrived, run = [], threading.Event(), GraphServable.run

        def notify(line):
            lines.append(line)
            arrived.set()

        def slow(self, signature, inputs, outputs=()):
            if lines or signature != "model_card":  # the card is read before the requests
                assert arrived.wait(LONG_S)
            arrived.clear()
            return run(self, signature, inputs, outputs)

        monkeypatch.setattr(GraphServable, "run", slow)
        verify.verify(tiny_base / "1", notify=notify)
        for name in SIGNATURES:
            assert f"verifying: {name} with 2 rows takes more than 0.01 s" in lines, name
        for name in ("classify", "fc6_features", "fc7_features", "layers", "model_card"):
            assert f"verifying: {name} with 1 rows takes more than 0.01 s" in lines, name

    def test_quick_requests_are_not_named(self, tiny_base, monkeypatch):
        monkeypatch.setattr(verify, "_SLOW_S", LONG_S)
        lines = []
        verify.verify(tiny_base / "1", notify=lines.append)
        assert lines == []


@pytest.mark.long
class TestNotes:
    """A CPU with fast bfloat16 is named where a float32 version of the full network is made."""

    @pytest.fixture(autouse=True)
    def width(self, monkeypatch):
        """Notes are for the full network; here it has width 8."""
        monkeypatch.setattr(canonical, "FULL_WIDTH", 8)

    def notes(self, out):
        return [line for line in out.splitlines() if "--precision bfloat16" in line]

    def test_build_names_the_faster_precision(self, machine, run, tmp_path):
        for name, count in (("amx", 1), ("avx2", 0)):
            machine(name)
            code, out, err = run(*BUILD, "--out", tmp_path / name)
            assert (code, err) == (0, ""), name
            assert out.startswith(f"{tmp_path / name}/1: "), name
            assert len(self.notes(out)) == count, name
        machine("amx")
        others = (("--precision", "bfloat16"), ("--target", "gpu"), ("--width", "4"))
        for number, options in enumerate(others):
            code, out, _ = run(*BUILD, *options, "--out", tmp_path / f"other-{number}")
            assert (code, self.notes(out)) == (0, []), options

    def test_serve_names_it_after_it_is_ready(self, machine, run, make_spec, tmp_path, monkeypatch):
        @contextlib.contextmanager
        def stopped(*_signals):
            event = threading.Event()
            event.set()
            yield event

        monkeypatch.setattr(cli, "signal_event", stopped)
        weights = replace(random_weights(3, width=8, classes=3), note="")
        build(make_spec(weights), tmp_path / "c3d")
        for name, count in (("amx", 1), ("avx2", 0)):
            machine(name)
            code, out, err = run("serve", tmp_path / "c3d", "--port", "0")
            assert (code, err) == (0, ""), name
            lines = out.splitlines()
            assert lines[0].startswith("ready: c3d version 1 at "), name
            assert self.notes(out) == lines[1 : 1 + count], name
