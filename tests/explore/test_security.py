import pytest

from mirage_jax.explore.security import Access, is_loopback, new_token

ACCESS = Access("secret token/+")
OPEN = Access("secret", host="0.0.0.0", names=("pod.example",))


def test_tokens_are_long_and_differ():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 40


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        ("/?token=secret%20token/%2B", True),
        ("/?walker=a&token=secret+token%2F%2B", True),
        ("/?token=secret%20token/%2B&token=other", True),
        ("/?token=other&token=secret%20token/%2B", False),
        ("/?token=secret%20token/", False),
        ("/?token=", False),
        ("/?token=%ff%fe", False),
        ("/", False),
        ("/" + "&a=1" * 100 + "?token=x" + "&a=1" * 100, False),
        ("//[::1?token=secret", False),
    ],
)
def test_the_token_is_that_of_the_query(target, holds):
    assert ACCESS.holds_token(target) == holds
    assert bool(ACCESS.wrong_token(target)) != holds


@pytest.mark.parametrize("host", ["127.0.0.1:8008", "localhost:9000", "[::1]:8008", "localhost"])
def test_the_page_of_this_machine_may_speak(host):
    assert ACCESS.wrong_address(host, f"http://{host}", page=False) == ""
    assert ACCESS.wrong_address(host, None, page=True) == ""


@pytest.mark.parametrize(
    ("host", "origin", "field"),
    [
        (None, None, "Host"),
        ("", None, "Host"),
        ("evil.example", "http://evil.example", "Host"),  # whose name resolves to this machine
        ("127.0.0.1.evil.example", None, "Host"),
        ("127.0.0.1@evil.example", None, "Host"),
        ("127.0.0.1/../", None, "Host"),
        ("localhost:99999", None, "Host"),
        ("\0", None, "Host"),
        ("10.0.0.5:8008", None, "Host"),
        ("localhost:8008", "http://evil.example", "Origin"),
        ("localhost:8008", "null", "Origin"),
        ("localhost:8008", "http://localhost:9000", "Origin"),  # another server of this machine
        ("localhost:8008", "http://localhost:8008.evil.example", "Origin"),
    ],
)
def test_others_are_refused(host, origin, field):
    assert ACCESS.wrong_address(host, origin, page=True).startswith(field)
    assert ACCESS.wrong_address(host, origin, page=False)


def test_a_socket_without_an_origin_is_refused():
    assert ACCESS.wrong_address("localhost:8008", None, page=False).startswith("Origin")


def test_of_a_server_for_all_addresses_only_listed_names_may_be_used():
    for host in ("10.0.0.5:8008", "[fe80::1]:8008", "pod.example", "localhost"):
        assert OPEN.wrong_address(host, f"http://{host}", page=False) == ""
    assert OPEN.wrong_address("evil.example", None, page=True).startswith("Host")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_which_addresses_are_of_this_machine_alone(host, loopback):
    assert is_loopback(host) == loopback
