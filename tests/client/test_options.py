"""ServingOptions: ranges, TLS, tokens and metadata."""

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
def test_value_out_of_range_is_an_error(option, value):
    name = "server" if option == "target" else option
    with pytest.raises(UsageError, match=f"{name} is .*; give"):
        ServingOptions(**{option: value})


def test_values_at_the_ends_of_their_ranges_are_accepted():
    ServingOptions("dns:///c3d:8500", timeout_s=0.001, retries=0, batch_size=1)
    ServingOptions(batch_size=32, max_in_flight=1, version=0)


def test_defaults():
    options = ServingOptions()
    assert (options.target, options.model, options.version) == ("localhost:8500", "c3d", None)
    assert (options.label, options.tls, options.token, options.metadata) == (None, False, None, ())


def test_version_and_label_exclude_each_other():
    with pytest.raises(UsageError, match="label is 'stable' and version is 0; give one"):
        ServingOptions(version=0, label="stable")


@pytest.mark.parametrize(
    "options", [{"ca": "ca.pem"}, {"cert": "a", "key": "b"}, {"override_name": "c3d"}], ids=str
)
def test_options_of_tls_turn_tls_on(options):
    assert ServingOptions(**options).tls
    assert replace(ServingOptions(**options), batch_size=1).tls


@pytest.mark.parametrize("options", [{"cert": "a"}, {"key": "b"}], ids=str)
def test_certificate_requires_its_key(options):
    with pytest.raises(UsageError, match="give both, or neither"):
        ServingOptions(**options)


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
    "dns:///c3d:8500",
    "dns://10.0.0.53/localhost:8500",
    "ipv4:127.0.0.1:1,10.0.0.1:2",
    "xds:///localhost",
]


class TestToken:
    @pytest.mark.parametrize("target", LOCAL)
    def test_needs_no_tls_within_this_machine(self, target):
        assert ServingOptions(target, token=TOKEN).token == TOKEN

    @pytest.mark.parametrize(
        "target",
        ["127.0.0.1:80@c3d.example:8500", "ipv4:127.0.0.1:1,", "localhost:8500,c3d:8500"],
    )
    def test_is_sent_to_no_address_that_begins_like_a_local_one(self, target):
        with pytest.raises(UsageError, match="give HOST:PORT"):
            ServingOptions(target, token=TOKEN, tls=True)

    @pytest.mark.parametrize("target", REMOTE)
    def test_needs_tls_to_another_machine(self, target):
        with pytest.raises(UsageError, match="unencrypted; turn TLS on") as caught:
            ServingOptions(target, token=TOKEN)
        assert TOKEN not in str(caught.value)
        assert ServingOptions(target, token=TOKEN, tls=True).token == TOKEN

    def test_needs_tls_after_a_change_of_the_target(self):
        with pytest.raises(UsageError, match="turn TLS on"):
            replace(ServingOptions(token=TOKEN), target="c3d:8500")

    @pytest.mark.parametrize("token", ["", "a b", f"{TOKEN}\n", "\u00e9", "a\r\nx: y"])
    def test_invalid_token_is_an_error_that_does_not_show_it(self, token):
        with pytest.raises(UsageError, match="give the bare token") as caught:
            ServingOptions(token=token)
        assert not token or token not in str(caught.value)

    def test_repr_shows_neither_token_nor_metadata(self):
        text = repr(ServingOptions(token=TOKEN, metadata=(("x-api-key", "k3y"),)))
        assert TOKEN not in text
        assert "k3y" not in text


class TestMetadata:
    def test_keys_are_sent_in_lower_case(self):
        assert ServingOptions(metadata=(("X-Api-Key", "K"),)).metadata == (("x-api-key", "K"),)

    @pytest.mark.parametrize("key", ["", "a b", "a:b", "\u00e9", "grpc-timeout", "x-bin", ":path"])
    def test_keys_that_grpc_does_not_send_are_errors(self, key):
        with pytest.raises(UsageError, match="metadata has the key"):
            ServingOptions(metadata=((key, "v"),))

    @pytest.mark.parametrize("value", ["\u00e9", "a\nb", "\0"])
    def test_values_that_grpc_does_not_send_are_errors_that_do_not_show_them(self, value):
        with pytest.raises(UsageError, match="'x-key' has a value that is not") as caught:
            ServingOptions(metadata=(("x-key", value),))
        assert value not in str(caught.value)

    def test_authorization_key_is_an_error(self):
        with pytest.raises(UsageError, match="give the token as token"):
            ServingOptions("c3d:8500", metadata=(("Authorization", f"Bearer {TOKEN}"),))
