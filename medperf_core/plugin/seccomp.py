"""The filter of system calls: what a task may ask of the kernel, as a profile in the form that engines read.

The engines' own default profiles differ between engines and versions, and a site may have changed them; so a runner
gives this one to each task. It allows what ordinary programs use and refuses what only makes, enters or breaks out of
containers, reaches other processes or administers the machine. Names: syscalls(2); form: the Linux section of the OCI
Runtime Specification, "Seccomp", which Docker, Podman, Apptainer and SingularityCE read.
"""

from __future__ import annotations

import json
import platform
from typing import Any

_ALLOWED = """
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 bind breakpoint brk cacheflush
    cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
    futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
    getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
    getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen
    listxattr listxattrat llistxattr llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
    membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
    mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat nice oldfstat oldlstat
    oldolduname oldstat olduname open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
    process_vm_writev pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat
    readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg
    sendto set_robust_list set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat sgetmask shmat
    shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn
    sigsuspend socketpair splice ssetmask stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
    sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
"""
_REFUSED = """
    acct add_key bpf chroot clock_settime clock_settime64 delete_module fanotify_init finit_module fsconfig fsmount
    fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
    kexec_file_load kexec_load keyctl mbind migrate_pages mount mount_setattr move_mount move_pages open_by_handle_at
    open_tree perf_event_open pidfd_getfd pivot_root process_madvise ptrace quotactl quotactl_fd reboot request_key
    set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon syslog umount
    umount2 unshare userfaultfd vhangup
"""
"""Refused as not permitted. Everything that is in neither list is answered as not there, which lets programs fall
back to what is: the C library, for example, from clone3, whose flags no filter can see, to clone."""
_NAMESPACES = 0x7E020000
"""The flags of clone that make namespaces: CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID and -NET."""
_VSOCK = 40
"""The address family by which a virtual machine's programs reach its host, past every network namespace."""
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X",),
}
_OTHER_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


def profile(machine: str = "") -> str:
    """The profile as JSON.

    "Trace" is used for "not there": engines know no error but one for what they refuse, and a system call that would
    be traced fails with ENOSYS where nobody traces (seccomp(2), SECCOMP_RET_TRACE). A task cannot become the tracer,
    as ptrace is refused.

    Args:
        machine: the processor of the machine that runs the tasks, as ``uname -m`` or a daemon tells it; "" for this
            machine's. For one that is not known here, the filter knows the machine's own system calls only.
    """
    machine = _OTHER_NAMES.get(machine, machine) or platform.machine()
    flags = 1 if machine == "s390x" else 0  # clone(2): there, the stack comes first
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_TRACE",
            "architectures": list(_ARCHITECTURES.get(machine, ())),
            "syscalls": [
                _rule(_ALLOWED.split(), "SCMP_ACT_ALLOW"),
                _rule(["clone"], "SCMP_ACT_ALLOW", _argument(_NAMESPACES, "SCMP_CMP_MASKED_EQ", flags)),
                _rule(["socket"], "SCMP_ACT_ALLOW", _argument(_VSOCK, "SCMP_CMP_NE")),
                *(
                    _rule(["personality"], "SCMP_ACT_ALLOW", _argument(value, "SCMP_CMP_EQ"))
                    for value in _PERSONALITIES
                ),
                _rule(_REFUSED.split(), "SCMP_ACT_ERRNO"),
            ],
        },
        indent=1,
    )


def _rule(names: list[str], action: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": action, "args": list(arguments)}


def _argument(value: int, comparison: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": comparison}
