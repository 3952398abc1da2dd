import json
import os
import platform
from pathlib import Path

import pytest

from registry.errors import ConfigurationError
from registry.host import Accelerator, Host
from registry.target import find_target, missing_features
from serving.node.host import read_host, this_host
from serving.node.processor import chip_name, control_groups, core_quota, memory_limit, processor_flags

ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
"""


def test_this_host_is_described_as_the_kernel_sees_it():
    host = this_host()
    assert host.architecture == platform.machine()
    assert 1 <= host.cores <= os.cpu_count()
    assert 1 << 28 < host.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if host.architecture == "x86_64":
        assert "sse4_2" in host.features
    assert list(host.features) == sorted(host.features)
    assert host.chip != "unknown"


def test_an_arm_host_has_its_features_and_name():
    flags = processor_flags(ARM + "\n" + ARM.replace(" atomics", ""))
    assert "asimddp" in flags
    assert "atomics" not in flags, "only what all cores have may be used"
    assert chip_name(ARM) == "Arm Neoverse-N1"
    assert chip_name("CPU implementer\t: 0x61\nCPU part\t: 0x022\n") == "implementer 0x61 part 0x22"
    host = this_host().model_copy(update={"architecture": "aarch64", "features": processor_flags(ARM)})
    assert missing_features(host, target=find_target("cpu-aarch64-neoverse-n1")) == ()


def test_an_unknown_cpuinfo_gives_no_flags_rather_than_wrong_ones():
    assert processor_flags("processor : 0\n") == ()
    assert chip_name("") is None


def test_the_tightest_limit_of_both_control_group_versions_holds(tmp_path):
    inner = tmp_path / "kubepods" / "pod"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "memory.max").write_text(f"{3 << 30}\n")
    groups = control_groups("0::/kubepods/pod\n", root=tmp_path)
    assert memory_limit(groups) == 3 << 30
    assert core_quota(groups) == 1.5
    old = tmp_path / "memory" / "docker" / "abc"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text(str(2 << 30))
    cpu = tmp_path / "cpu,cpuacct" / "docker" / "abc"
    cpu.mkdir(parents=True)
    (cpu / "cpu.cfs_quota_us").write_text("-1")
    (cpu / "cpu.cfs_period_us").write_text("100000")
    both = control_groups(
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/kubepods/pod\n", root=tmp_path
    )
    assert memory_limit(both) == 2 << 30
    assert core_quota(both) == 1.5
    assert memory_limit(control_groups("", root=tmp_path / "nothing")) == float("inf")


def test_a_limit_of_a_container_that_sees_its_own_group_as_the_root_holds(tmp_path):
    (tmp_path / "memory.max").write_text(str(1 << 30))
    assert memory_limit(control_groups("0::/not/visible/here\n", root=tmp_path)) == 1 << 30


HOST = Host(
    architecture="x86_64",
    features=("avx2", "fma"),
    memory_bytes=64 << 30,
    cores=8,
    chip="a processor",
    accelerators=(Accelerator(architecture="sm_90", chip="NVIDIA H100", memory_bytes=80 << 30),),
)
DOCTOR = Path(__file__).parent / "golden" / "doctor-1.json"


def test_what_doctor_prints_and_the_facts_alone_give_the_same_host(tmp_path):
    path = tmp_path / "host.json"
    path.write_text(HOST.model_dump_json())
    assert read_host(path) == HOST
    doctor = {"machine": {"host": HOST.model_dump(mode="json"), "targets": {}}, "workspace": None}
    path.write_text(json.dumps(doctor))
    assert read_host(path) == HOST


def test_what_the_doctor_of_rung_0_1_printed_is_still_read():
    host = read_host(DOCTOR)
    assert (host.chip, host.cores, host.accelerators) == ("AMD EPYC", 2, ())
    assert missing_features(host, target=find_target("cpu-x86-64-v4-vnni")) == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "document"),
        ('{"architecture": "x86_64"}', "features: Field required"),
        ('{"cores": "many"}', "architecture: Field required"),
        ('{"machine": {}}', "has no `host`"),
        ('{"machine": {"host": {"cores": 2}}}', "architecture: Field required"),
        ('{"machine": {"host": 3}}', "document"),
    ],
)
def test_a_wrong_host_file_is_refused_with_the_remedy(tmp_path, content, said):
    path = tmp_path / "host.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"host\.json") as refused:
        read_host(path)
    assert said in refused.value.message
    assert "rung doctor --json" in refused.value.hint
    assert refused.value.exit_code == 2


def test_a_host_file_that_is_not_there_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.json") as refused:
        read_host(tmp_path / "none.json")
    assert "rung doctor --json" in refused.value.hint
