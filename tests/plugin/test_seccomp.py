"""The filter of system calls as a profile. What it does to a task is tried by the runners that give it."""

from __future__ import annotations

import json

import pytest

from medperf_core.plugin.seccomp import profile


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", "SCMP_ARCH_X86_64"),
        ("amd64", "SCMP_ARCH_X86_64"),
        ("aarch64", "SCMP_ARCH_AARCH64"),
        ("arm64", "SCMP_ARCH_AARCH64"),
        ("ppc64le", "SCMP_ARCH_PPC64LE"),
        ("riscv64", "SCMP_ARCH_RISCV64"),
        ("s390x", "SCMP_ARCH_S390X"),
    ],
)
def test_the_names_of_a_machine_and_its_architecture(machine: str, architecture: str) -> None:
    assert json.loads(profile(machine))["architectures"][0] == architecture


def test_a_machine_that_is_not_known_gets_its_own_calls_only() -> None:
    assert json.loads(profile("mips"))["architectures"] == []


def test_this_machine_is_the_default() -> None:
    assert json.loads(profile())["architectures"] != []


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "s390x", "mips"])
def test_what_is_allowed_and_what_only_with_arguments(machine: str) -> None:
    rules = json.loads(profile(machine))["syscalls"]
    allowed = {
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and not rule["args"] for name in rule["names"]
    }
    refused = {name for rule in rules if rule["action"] == "SCMP_ACT_ERRNO" for name in rule["names"]}
    assert not allowed & refused
    never = {"ptrace", "mount", "unshare", "setns", "clone", "clone3", "bpf", "keyctl", "socket", "socketcall"}
    assert not never & allowed
    assert {"read", "execve", "futex", "rseq", "mmap", "openat", "statx", "faccessat2"} <= allowed
    clone = next(rule for rule in rules if rule["names"] == ["clone"])
    assert [argument["index"] for argument in clone["args"]] == [1 if machine == "s390x" else 0]
    assert clone["args"][0]["value"] & 0x10000000, "the flag for a user namespace"
