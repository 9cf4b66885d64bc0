"""What a connection can be told, and what is refused before there is one."""

from dataclasses import replace

import pytest
from c3d_client.core.errors import UsageError
from c3d_client.serving.options import ServingOptions

TOKEN = "s3cret-token"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("target", ""),
        ("target", "http://localhost:8501"),
        ("target", "https://localhost"),
        ("version", -1),
        ("version", 2**63),
        ("timeout_s", 0),
        ("timeout_s", -1.0),
        ("timeout_s", float("nan")),
        ("timeout_s", float("inf")),
        ("retries", -1),
        ("batch_size", 0),
        ("batch_size", 33),
        ("max_in_flight", 0),
        ("label", ""),
    ],
)
def test_values_out_of_range_are_refused_by_name(option, value):
    word = "server" if option == "target" else option
    with pytest.raises(UsageError, match=f"{word} is .*; give"):
        ServingOptions(**{option: value})


def test_values_at_the_ends_of_their_ranges_are_taken():
    ServingOptions("dns:///c3d:8500", timeout_s=0.001, retries=0, batch_size=1)
    ServingOptions(batch_size=32, max_in_flight=1, version=0)


def test_the_newest_version_of_c3d_on_this_machine_is_the_default():
    options = ServingOptions()
    assert (options.target, options.model, options.version) == ("localhost:8500", "c3d", None)
    assert (options.label, options.tls, options.token, options.metadata) == (None, False, None, ())


def test_a_version_and_a_label_exclude_each_other():
    with pytest.raises(UsageError, match="label is 'stable' and version is 0; give one"):
        ServingOptions(version=0, label="stable")


@pytest.mark.parametrize(
    "given", [{"ca": "ca.pem"}, {"cert": "a", "key": "b"}, {"override_name": "c3d"}], ids=str
)
def test_what_only_tls_uses_turns_tls_on(given):
    assert ServingOptions(**given).tls
    assert replace(ServingOptions(**given), batch_size=1).tls


@pytest.mark.parametrize("given", [{"cert": "a"}, {"key": "b"}], ids=str)
def test_a_certificate_and_its_key_come_together(given):
    with pytest.raises(UsageError, match="give both, or neither"):
        ServingOptions(**given)


LOCAL = [
    "localhost",
    "localhost:8500",
    "LocalHost:8500",
    "127.0.0.1:8500",
    "127.8.9.1:8500",
    "[::1]:8500",
    "[::1]",
    "dns:localhost:8500",
    "dns:///localhost:8500",
    "ipv4:127.0.0.1:1,127.0.0.2:2",
    "ipv6:[::1]:8500",
    "unix:/run/c3d.sock",
    "unix-abstract:c3d",
]
REMOTE = [
    "c3d:8500",
    "10.0.0.1:8500",
    "[2001:db8::1]:8500",
    "0.0.0.0:8500",
    "localhost.example:8500",
    "127.0.0.1.example:8500",
    "127.0.0.1:80@c3d.example:8500",
    "dns:///c3d:8500",
    "dns://10.0.0.53/localhost:8500",
    "ipv4:127.0.0.1:1,10.0.0.1:2",
    "ipv4:127.0.0.1:1,",
    "xds:///localhost",
    "localhost:8500,c3d:8500",
]


class TestAToken:
    @pytest.mark.parametrize("target", LOCAL)
    def test_may_go_in_the_clear_within_this_machine(self, target):
        assert ServingOptions(target, token=TOKEN).token == TOKEN

    @pytest.mark.parametrize("target", REMOTE)
    def test_goes_to_another_machine_over_tls_alone(self, target):
        with pytest.raises(UsageError, match="unencrypted; turn TLS on") as caught:
            ServingOptions(target, token=TOKEN)
        assert TOKEN not in str(caught.value)
        assert ServingOptions(target, token=TOKEN, tls=True).token == TOKEN

    def test_cannot_be_taken_to_another_machine_by_a_change_of_target(self):
        with pytest.raises(UsageError, match="turn TLS on"):
            replace(ServingOptions(token=TOKEN), target="c3d:8500")

    @pytest.mark.parametrize("token", ["", "a b", f"{TOKEN}\n", "\u00e9", "a\r\nx: y"])
    def test_that_cannot_be_sent_is_refused_unseen(self, token):
        with pytest.raises(UsageError, match="give the bare token") as caught:
            ServingOptions(token=token)
        assert not token or token not in str(caught.value)

    def test_and_the_metadata_are_not_shown(self):
        shown = repr(ServingOptions(token=TOKEN, metadata=(("x-api-key", "k3y"),)))
        assert TOKEN not in shown
        assert "k3y" not in shown


class TestMetadata:
    def test_keys_are_sent_in_lower_case(self):
        assert ServingOptions(metadata=(("X-Api-Key", "K"),)).metadata == (("x-api-key", "K"),)

    @pytest.mark.parametrize("key", ["", "a b", "a:b", "\u00e9", "grpc-timeout", "x-bin", ":path"])
    def test_keys_that_grpc_does_not_send_are_refused(self, key):
        with pytest.raises(UsageError, match="metadata has the key"):
            ServingOptions(metadata=((key, "v"),))

    @pytest.mark.parametrize("value", ["\u00e9", "a\nb", "\0"])
    def test_values_that_grpc_does_not_send_are_refused_unseen(self, value):
        with pytest.raises(UsageError, match="'x-key' has a value that is not") as caught:
            ServingOptions(metadata=(("x-key", value),))
        assert value not in str(caught.value)

    def test_is_no_way_around_the_tokens_rules(self):
        with pytest.raises(UsageError, match="give the token as token"):
            ServingOptions("c3d:8500", metadata=(("Authorization", f"Bearer {TOKEN}"),))
