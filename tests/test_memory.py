"""Sizes, the budget of a step, and what a container leaves."""

from types import SimpleNamespace

import pytest

from eds_chunked import memory
from eds_chunked.errors import MemoryBudgetError, ParameterError
from eds_chunked.memory import MB, Need, format_size, parse_size, plan, resolve_limit


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        (" 800mb ", 800 * 10**6),
        ("0.25TB", 25 * 10**10),
        ("64 KiB", 65536),
        ("123", 123),
        (123456, 123456),
    ],
)
def test_sizes_are_read(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2 G B", "2PB", "0", "0GB", "1e9", "nan", None, "1,5GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ParameterError, match=r"memory: found .* such as 800MB or 2GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (640 * 10**6, "640 MB"), (1_254_000_000, "1.25 GB"), (3e12, "3 TB")],
)
def test_sizes_are_written_for_people(n_bytes, text):
    assert format_size(n_bytes) == text


@pytest.fixture
def idle(monkeypatch):
    """A process of 200 MB, so that figures do not depend on what ran before."""
    monkeypatch.setattr(memory, "resident", lambda: 200 * MB)
    return 200 * MB + memory.RESERVE


def test_a_plan_takes_as_many_workers_as_fit(idle):
    need = Need("test", fixed=100 * MB, per_worker=50 * MB)
    room = {n: idle + 100 * MB + n * 50 * MB for n in (1, 2, 3)}
    assert plan(need, memory=room[1], max_workers=8).workers == 1
    assert plan(need, memory=room[2] - 1, max_workers=8).workers == 1
    assert plan(need, memory=room[3] + 7, max_workers=8).workers == 3
    assert plan(need, memory=room[3], max_workers=2).workers == 2
    chosen = plan(need, memory=room[3] + 7, max_workers=2)
    assert chosen.peak == room[2]
    assert chosen.spare == 50 * MB + 7
    assert chosen.peak + chosen.spare == chosen.limit


@pytest.mark.parametrize(
    "need", [Need("test", 100 * MB + 1, 50 * MB), Need("test", 123456789, 7), Need("test", 0, 10**9)]
)
def test_a_refusal_names_the_smallest_budget_that_works(idle, need):
    with pytest.raises(MemoryBudgetError, match="memory for test: found a budget of 300 kB") as refused:
        plan(need, memory="300kB")
    named = refused.value.fix.removeprefix("--memory ")
    assert plan(need, memory=named, max_workers=1).workers == 1
    with pytest.raises(MemoryBudgetError):
        plan(need, memory=parse_size(named) - 10 * MB)
    assert isinstance(refused.value, MemoryError)


def test_the_default_is_half_of_what_is_free_and_at_most_the_limit(idle, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    assert resolve_limit(None) == 200 * MB + 10**9 // 2
    monkeypatch.setattr(memory, "available", lambda: 10**12)
    assert resolve_limit(None) == memory.DEFAULT_LIMIT
    assert resolve_limit("3GB") == 3 * 10**9


def level(folder, names, *, limit, used, cache):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip((*names, "memory.stat"), (limit, used, cache), strict=True):
        (folder / name).write_text(f"{content}\n")


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_the_tightest_limit_of_cgroup_2_counts(tmp_path):
    member = tmp_path / "cgroup"
    member.write_text("0::/slice/box\n")
    level(tmp_path / "slice", V2, limit=900, used=300, cache="anon 1\ninactive_file 0")
    level(tmp_path / "slice/box", V2, limit="max", used=200, cache="inactive_file 0")
    assert memory.container_free(member, tmp_path) == 600
    level(tmp_path / "slice/box", V2, limit=500, used=200, cache="inactive_file 0")
    assert memory.container_free(member, tmp_path) == 300
    level(tmp_path / "slice/box", V2, limit=500, used=600, cache="inactive_file 0")
    assert memory.container_free(member, tmp_path) == 0


def test_the_tightest_limit_of_cgroup_1_counts(tmp_path):
    member = tmp_path / "cgroup"
    member.write_text("5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n")
    level(tmp_path / "memory", V1, limit=2**63 - 4096, used=10, cache="total_inactive_file 0")
    level(tmp_path / "memory/a/b", V1, limit=1000, used=900, cache="inactive_file 5\ntotal_inactive_file 400")
    assert memory.container_free(member, tmp_path) == 500


def test_inside_a_container_its_own_limit_is_at_the_root(tmp_path):
    # A namespace of its own: the process is at "/", and what is mounted there is the container's level.
    member = tmp_path / "cgroup"
    member.write_text("0::/\n")
    level(tmp_path, V2, limit=700, used=300, cache="anon 300\ninactive_file 100")
    assert memory.container_free(member, tmp_path) == 500


@pytest.mark.parametrize("path", ["/docker/0123abc", "/../../outside", "/kubepods.slice/pod:1/cri:2"])
def test_inside_a_container_the_path_may_be_that_of_the_host(tmp_path, path):
    member = tmp_path / "cgroup"
    member.write_text(f"12:memory:{path}\n1:name=systemd:{path}\n0::{path}\n")
    level(tmp_path / "memory", V1, limit=700, used=300, cache="total_inactive_file 100")
    assert memory.container_free(member, tmp_path) == 500


def test_of_a_hybrid_hierarchy_the_level_with_memory_counts(tmp_path):
    member = tmp_path / "cgroup"
    member.write_text("9:memory:/user/a\n8:cpuset:/\n0::/user.slice/session\n")
    level(tmp_path / "memory/user", V1, limit=1000, used=200, cache="total_inactive_file 0")
    level(tmp_path / "memory/user/a", V1, limit=2**63 - 4096, used=100, cache="total_inactive_file 0")
    (tmp_path / "unified/user.slice/session").mkdir(parents=True)
    assert memory.container_free(member, tmp_path) == 800


def test_a_level_may_slow_down_before_it_kills(tmp_path):
    member = tmp_path / "cgroup"
    member.write_text("0::/box\n")
    level(tmp_path / "box", V2, limit="max", used=200, cache="inactive_file 0")
    assert memory.container_free(member, tmp_path) is None
    (tmp_path / "box/memory.high").write_text("600\n")
    assert memory.container_free(member, tmp_path) == 400


def test_a_limit_counts_where_nothing_tells_what_is_cache(tmp_path):
    member = tmp_path / "cgroup"
    member.write_text("0::/box\n")
    level(tmp_path / "box", V2, limit=1000, used=300, cache="inactive_file 0")
    (tmp_path / "box/memory.stat").unlink()
    assert memory.container_free(member, tmp_path) == 700


def test_files_that_the_system_keeps_in_memory_are_free(tmp_path):
    member = tmp_path / "cgroup"
    member.write_text("0::/box\n")
    # A container that has read large files: nearly all of its memory is cache, which gives way.
    level(tmp_path / "box", V2, limit=1000, used=990, cache="anon 90\ninactive_file 900\nactive_file 0")
    assert memory.container_free(member, tmp_path) == 910


@pytest.mark.parametrize("text", [None, "", "0::/nowhere\n", "3:cpu:/a\n"])
def test_without_a_limit_there_is_none(tmp_path, text):
    member = tmp_path / "cgroup"
    if text is not None:
        member.write_text(text)
    assert memory.container_free(member, tmp_path) is None


def test_a_container_and_the_machine_both_limit(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=700))
    for in_container, free in ((None, 700), (500, 500), (900, 700)):
        monkeypatch.setattr(memory, "container_free", lambda in_container=in_container: in_container)
        assert memory.available() == free


def test_figures_of_this_process_are_sound():
    assert 10 * MB < memory.resident() < 100 * 10**9
    assert memory.n_cpus() >= 1
    memory.release()
