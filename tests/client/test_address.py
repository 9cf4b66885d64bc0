"""gRPC addresses: what is taken, with which port, and what is refused in one line."""

import socket

import pytest
from c3d_client import C3DClient, ServingOptions, UsageError
from c3d_client.serving.address import checked_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost", "localhost:8500"),
        ("c3d.example.", "c3d.example.:8500"),
        ("c3d_1.x-y:80", "c3d_1.x-y:80"),
        ("localhost:1", "localhost:1"),
        ("localhost:65535", "localhost:65535"),
        ("10.0.0.1", "10.0.0.1:8500"),
        ("::1", "[::1]:8500"),
        ("[::1]", "[::1]:8500"),
        ("[::1]:80", "[::1]:80"),
        ("2001:db8::1", "[2001:db8::1]:8500"),
        ("1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]:8500"),
        ("fe80::1%eth0", "[fe80::1%eth0]:8500"),
        ("dns:///c3d", "dns:///c3d:8500"),
        ("dns:c3d:80", "dns:c3d:80"),
        ("dns:///[::1]:80", "dns:///[::1]:80"),
        ("dns://10.0.0.53/c3d", "dns://10.0.0.53/c3d:8500"),
        ("ipv4:10.0.0.1:80,10.0.0.2", "ipv4:10.0.0.1:80,10.0.0.2:8500"),
        ("ipv6:[::1]:80,[::2]", "ipv6:[::1]:80,[::2]:8500"),
        ("ipv6:::1", "ipv6:[::1]:8500"),
        ("unix:/run/c3d.sock", "unix:/run/c3d.sock"),
        ("unix:///run/c3d.sock", "unix:///run/c3d.sock"),
        ("unix-abstract:c3d", "unix-abstract:c3d"),
        ("xds:///c3d", "xds:///c3d"),
        (" localhost:80\n", "localhost:80"),
    ],
)
def test_address_has_a_port(address, expected):
    assert checked_address(address) == expected
    assert checked_address(expected) == expected
    assert ServingOptions(address).target == expected


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("localhost:99999", "its port is '99999', not 1 to 65535"),
        ("localhost:65536", "its port is '65536'"),
        ("localhost:0", "its port is '0'"),
        ("localhost:-1", "its port is '-1'"),
        ("localhost:\u0661", "its port is '\u0661'"),
        ("localhost:https", "its port is 'https'"),
        ("localhost:8500/", "its port is '8500/'"),
        ("localhost:", "no port follows the colon"),
        (":8500", "names no host"),
        ("8500", "a number and no host"),
        ("[::1]80", "only a port follows"),
        ("[::1", "only a port follows"),
        ("[::1]:99999", "its port is '99999'"),
        ("[localhost]:80", "'localhost' is not an IPv6 address"),
        ("::1:8500", r"this is \[::1\]:8500 or \[::1:8500\]:8500; give brackets"),
        ("dns:///c3d:99999", "its port is '99999'"),
        ("dns:///", "give HOST:PORT"),
        ("dns://c3d:8500", "no name to resolve"),
        ("ipv4:c3d:80", "'c3d' is not an IPv4 address"),
        ("ipv4:10.0.0.1:80,", "give HOST:PORT"),
        ("ipv4:[::1]:80", "'::1' is not an IPv4 address"),
        ("ipv6:10.0.0.1:80", "'10.0.0.1' is not an IPv6 address"),
        ("unix:", "nothing follows unix:"),
        ("http://c3d:8501", "address of a web server"),
        ("grpc://c3d:8500", "no addresses with grpc://"),
        ("c3d d:8500", "'c3d d' is not the name of a host"),
        ("a:1,b:2", "is not an IPv6 address"),
        ("", "give HOST:PORT"),
        (None, "server is None; give"),
        (b"localhost", "server is b'localhost'; give"),
        (8500, "server is 8500; give"),
    ],
)
def test_other_text_is_refused(address, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        ServingOptions(address)
    assert str(caught.value).startswith(f"server is {address!r}")
    assert str(caught.value).endswith("; give HOST:PORT, such as localhost:8500")


def test_passwords_in_addresses_are_not_shown():
    problem = "an address of gRPC has no user and no password; give HOST:PORT"
    for address, expected in (
        ("me@c3d:8500", problem),
        ("me:secret@c3d:8500", problem),
        ("grpc://me:secret@c3d", problem),
        ("dns://me:secret@ns/c3d", problem),
        ("http://me:se@cret@c3d/x", "this is the address of a web server"),
    ):
        with pytest.raises(UsageError) as caught:
            ServingOptions(address)
        shown = address.rpartition("@")[2]
        assert str(caught.value).startswith(f"server is '***@{shown}': {expected}")


def test_ipv6_and_bare_addresses_reach_the_server(fake_serving):
    port = fake_serving().target.rpartition(":")[2]
    addresses = [f"127.0.0.1:{port}", f"dns:///localhost:{port}", f"ipv4:127.0.0.1:{port}"]
    if socket.has_ipv6 and _listens(port):
        addresses += [f"[::1]:{port}", f"ipv6:[::1]:{port}"]
    for address in addresses:
        with C3DClient(address) as c3d:
            assert c3d.model_info().version, address


def _listens(port):
    try:
        socket.create_connection(("::1", int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_address_of_the_option_and_of_the_environment_is_checked(monkeypatch, run):
    for command in (("status",), ("classify", "a.mp4"), ("extract", "a.mp4"), ("bench",)):
        code, stdout, stderr = run(*command, "--server", "localhost:99999")
        assert (code, stdout, len(stderr)) == (2, "", 1), command
        assert "its port is '99999', not 1 to 65535" in stderr[0], command
    monkeypatch.setenv("C3D_SERVER", "localhost:99999")
    code, _, stderr = run("status")
    assert (code, len(stderr)) == (2, 1)
    assert "'localhost:99999'" in stderr[0]


def test_address_of_a_bulk_run_is_checked_before_its_videos_are_listed(tmp_path, capsys):
    from c3d_pipelines import JobSettings
    from c3d_pipelines.cli import main

    with pytest.raises(UsageError, match="its port is '99999'"):
        JobSettings(out="out", run="one", server="localhost:99999")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(
            ["run", "--videos", str(tmp_path), "--out", str(out)]
            + ["--server", "localhost:99999", "--quiet"]
        )
    assert ended.value.code == 2
    assert "its port is '99999', not 1 to 65535" in capsys.readouterr().err
    assert not (out / "dataset.json").exists()
