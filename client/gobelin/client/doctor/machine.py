"""Checks of this machine and of the home: versions, permissions, disk, device, threads."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from gobelin.client.doctor.patient import Patient
from gobelin.client.forecast import disk_bytes, traffic_of
from gobelin.client.plan import schema_of
from gobelin.client.workbench import pick_device, pick_precision
from gobelin.shared.checkup import Found, fail, ok, warn
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import PRIVATE, bytes_in, open_to_others
from gobelin.shared.installed import check_versions
from gobelin.shared.locks import is_owned

SECRETS = ("node.key", "signing.key", "node.secret", "invite.key")


def versions(patient: Patient) -> Found:
    """Whether what is installed is what this version of gobelin was made for."""
    return check_versions()


def permissions(patient: Patient) -> Found:
    """Whether the keys are this user's alone, and the home can be written."""
    home = patient.node
    if not os.access(home.folder, os.W_OK | os.X_OK):
        return fail("home", f"{home.folder} cannot be written", f"chown -R $(id -un) {home.folder}")
    files = [home.folder / name for name in SECRETS if (home.folder / name).exists()]
    missing = [file for file in (home.key_file, home.signing_key_file) if not file.exists()]
    if missing:
        return fail("home", f"{missing[0]} is missing", "restore the home from a backup")
    if found := open_to_others(files):
        names = " ".join(map(str, found))
        return fail("home", f"others may read {names}", f"chmod {PRIVATE:o} {names}")
    running = "a node is running on it" if is_owned(home.folder) else "no node is running on it"
    return ok(f"{len(files)} secrets are this user's alone; {running}")


def settings(patient: Patient) -> Found:
    """Whether node.toml can be read, and keeps a proxy's password to itself."""
    known = patient.settings
    proxy = known.network.proxy or ""
    file = patient.node.settings_file
    if "@" in proxy and open_to_others([file]):
        return warn("password", f"others may read the proxy's password in {file}",
                    f"chmod {PRIVATE:o} {file}, or set https_proxy instead")  # fmt: skip
    return ok(f"node {known.node!r} of {known.member!r}; {known.egress}")


def disk(patient: Patient) -> Found:
    """Whether the home has place for three rounds of this recipe."""
    folder = patient.node.folder
    free = shutil.disk_usage(folder).free
    try:
        terms = patient.terms()
    except GobelinError:
        return ok(f"{free / 1e9:.1f} GB free; how much is needed the first plan says", free=free)
    schema = schema_of(terms.recipe)
    told = terms.recipe.told(patient.settings.data.modality)
    need = disk_bytes(terms, traffic_of(terms, schema, told), schema.size)
    have = free + bytes_in(patient.node.spool)
    line = f"{free / 1e9:.1f} GB free, three rounds take {need / 1e9:.2g} GB"
    if have < need:
        return fail("disk", line, f"free space in {folder}, or move it (`gobelin node run --home`)",
                    free=free, need=need)  # fmt: skip
    return ok(line, free=free, need=need)


def device(patient: Patient) -> Found:
    """Which device torch trains on, its memory, its driver, and whether it has bf16."""
    import torch

    if patient.home is None:
        wanted, asked = "cuda" if torch.cuda.is_available() else "cpu", "auto"
        precision = "bf16" if wanted == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    else:
        compute = patient.settings.compute
        asked = compute.device
        wanted = pick_device(compute)
        precision = pick_precision(compute, wanted)
    if not wanted.startswith("cuda"):
        told = f"{wanted} ({platform.machine()}), {precision}"
        driver = Path("/proc/driver/nvidia/version")
        if asked == "auto" and driver.exists():
            return warn(
                "accelerator",
                f"{told}; there is an NVIDIA driver, and torch {torch.__version__} does not use it",
                "`nvidia-smi`, and install the torch build of that driver's CUDA",
            )
        return ok(told)
    about = torch.cuda.get_device_properties(wanted)
    free, total = torch.cuda.mem_get_info(wanted)
    told = (
        f"{about.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute "
        f"{about.major}.{about.minor}, CUDA {torch.version.cuda}, {precision}"
    )
    if free < 0.5 * total:
        return warn("vram", f"{told}; others hold half of it", "`nvidia-smi` says who",
                    free=free, total=total)  # fmt: skip
    return ok(told, free=free, total=total, bf16=torch.cuda.is_bf16_supported())


def threads(patient: Patient) -> Found:
    """How many threads torch takes of the processors that this process may use."""
    import torch

    asked = patient.settings.compute.threads
    offered = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    taken = asked or torch.get_num_threads()
    if offered and taken > offered:
        return warn("threads", f"{taken} threads on {offered} processors",
                    "set compute.threads in node.toml")  # fmt: skip
    return ok(f"{taken} of {offered} processors", threads=taken, processors=offered)
