"""HOST:PORT, read in one place, and which of them a proxy stands before."""

import pytest

from zowarmup.common.settings.addresses import MOST_ADDRESSES, addresses_in, host_and_port, proxy_for


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:7070", "127.0.0.1", 7070),
        ("coordinator.local:1", "coordinator.local", 1),
        ("pi-3:65535", "pi-3", 65535),
        ("a_service.namespace.svc.:80", "a_service.namespace.svc.", 80),
        ("[::1]:7070", "::1", 7070),
        ("[fe80::1%eth0]:7070", "fe80::1%eth0", 7070),
        ("[::ffff:10.0.0.1]:7070", "::ffff:10.0.0.1", 7070),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert host_and_port(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("localhost", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("localhost:", "the port must be 1 to 65535"),
        (":7070", "the host is missing"),
        ("localhost:0", "the port must be"),
        ("localhost:70000", "the port must be"),
        ("localhost:-1", "the port must be"),
        ("localhost:seven", "the port must be"),
        ("localhost:7070:7071", "one colon"),
        ("localhost:" + "9" * 5000, "the port must be"),
        ("ipv4:127.0.0.1:7070", "one colon"),
        ("127.0.0.1:7070,127.0.0.2:7070", "one colon"),
        ("fe80::1%eth0:7070", r"IPv6 address must stand in \[\]"),
        ("::1:7070", r"IPv6 address must stand in \[\]"),
        ("[::1:7070", r"the port|\[\]"),
        ("[localhost]:7070", r"no IPv6 address is in \[\]"),
        ("[::1%]:7070", r"no IPv6 address is in \[\]"),
        ("999.1.1.1:7070", "no IPv4 address"),
        ("http://localhost:7070", "leave http:// out"),
        ("grpc://localhost:7070", "leave grpc:// out"),
        ("localhost:7070/", "leave the path out"),
        ("me@localhost:7070", "leave the user out"),
        ("local host:7070", "a space"),
        ("localhost:7070\n", "a space"),
        ("local\x00host:7070", "a control character"),
        ("bücher.local:7070", "xn--"),
        ("localhost:\u0667\u0660", "ASCII"),
        ("-pi:7070", "no name of a machine"),
        ("pi..local:7070", "no name of a machine"),
        ("a" * 64 + ":7070", "no name of a machine"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(address: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"must be HOST:PORT, such as .*: .*({problem})") as refused:
        host_and_port(address)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_a_port_to_listen_on_may_be_any_that_is_free() -> None:
    assert host_and_port("127.0.0.1:0", listening=True) == ("127.0.0.1", 0)


WEB = {
    "http_proxy": "http://p:1",
    "https_proxy": "http://p:1",
    "HTTPS_PROXY": "http://p:1",
    "all_proxy": "http://p:1",
}


@pytest.mark.parametrize(
    ("address", "environment", "proxy"),
    [
        ("coordinator.example:7070", WEB, ""),
        ("coordinator.example:7070", {"grpc_proxy": "http://p:1"}, "http://p:1"),
        ("coordinator.example:7070", {"grpc_proxy": " "}, ""),
        ("127.0.0.1:7070", {"grpc_proxy": "http://p:1"}, ""),
        ("localhost:7070", {"grpc_proxy": "http://p:1"}, ""),
        ("[::1]:7070", {"grpc_proxy": "http://p:1"}, ""),
        ("coordinator.example:7070", {"grpc_proxy": "http://p:1", "no_proxy": ".example, other"}, ""),
        ("coordinator.example:7070", {"grpc_proxy": "http://p:1", "no_proxy": "ample"}, "http://p:1"),
        ("coordinator.example:7070", {"grpc_proxy": "http://p:1", "no_proxy": "*"}, ""),
        ("10.1.2.3:7070", {"grpc_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, ""),
        ("10.1.2.3:7070", {"grpc_proxy": "http://p:1", "no_grpc_proxy": "a", "no_proxy": "*"}, "http://p:1"),
    ],
)
def test_a_proxy_is_used_where_it_is_named_for_grpc(address: str, environment: dict[str, str], proxy: str) -> None:
    assert proxy_for(address, environment) == proxy


def test_several_are_separated_by_commas() -> None:
    assert addresses_in("a:1") == ("a:1",)
    assert addresses_in("a:1,[::1]:2, 10.0.0.1:3") == ("a:1", "[::1]:2", "10.0.0.1:3")
    for wrong, problem in (("a:1,", "empty"), ("a:1,b", "port is missing"), ("a:1,b:2,a:1", "'a:1' is there twice")):
        with pytest.raises(ValueError, match=problem):
            addresses_in(wrong)
    with pytest.raises(ValueError, match=f"{MOST_ADDRESSES + 1} addresses are more than"):
        addresses_in(",".join(f"a:{port}" for port in range(1, MOST_ADDRESSES + 2)))
