"""Names of hosts, from the environment variables of launchers."""

import pytest

from mirage_jax.parallel.names import expand, expected_hosts, missing_hosts


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("login", "login"),
        ("node[01-03,7]", "node01 node02 node03 node7"),
        ("a[1-2],b,c[9-11]", "a1 a2 b c9 c10 c11"),
        ("rack[1-2]n[08-09]-ib", "rack1n08-ib rack1n09-ib rack2n08-ib rack2n09-ib"),
        ("n[099-101]", "n099 n100 n101"),
        ("tpu-7.zone.example", "tpu-7.zone.example"),
    ],
)
def test_a_list_of_nodes_is_expanded(nodes, names):
    assert expand(nodes) == tuple(names.split())


@pytest.mark.parametrize("nodes", ["n[1-2", "n1-2]", "n[a-b]", "n[]", "a,,b", "n[1[2]]"])
def test_what_is_no_list_of_nodes_is_refused(nodes):
    with pytest.raises(ValueError, match="nodes: found"):
        expand(nodes)


def test_hosts_by_launcher():
    assert expected_hosts({}) == ()
    slurm = {"SLURM_JOB_NODELIST": "n[1-4]", "SLURM_STEP_NODELIST": "n[2-3]"}
    assert expected_hosts(slurm) == ("n2", "n3")  # a step may leave hosts of its job out
    assert expected_hosts({"SLURM_JOB_NODELIST": "n[1-2]"}) == ("n1", "n2")
    assert expected_hosts({"SLURM_JOB_NODELIST": "n[1-"}) == ()
    assert expected_hosts({"TPU_WORKER_HOSTNAMES": "t-0.sub, t-1.sub"}) == ("t-0.sub", "t-1.sub")


def test_names_are_compared_without_their_domain():
    expected = ("t-0.sub", "t-1.sub", "t-2.sub")
    assert missing_hosts(expected, ["t-0", "T-2.sub.example"]) == ["t-1.sub"]
    assert missing_hosts(expected, ["t-0", "t-1", "t-2"]) == []
    assert missing_hosts(("10.0.0.1", "10.0.0.2"), ["10.0.0.1"]) == ["10.0.0.2"]
    # Known by other names: better nothing than that all of them are missing.
    assert missing_hosts(("10.0.0.1", "10.0.0.2"), ["t-0"]) == []
