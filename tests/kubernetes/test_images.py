"""The images: what the Dockerfiles promise, and a platform image that is really built here, without Docker, and really runs."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core.errors import Fault, Refused
from infra.images.build import DOCKERFILES, ROOT, Build, Builder, bootstrap_base, build
from infra.images.locked import missing

FILES = sorted((ROOT / "infra/images").glob("*.Dockerfile"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_image_has_its_base_by_argument_and_runs_as_nobody_in_particular(path: Path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE)[-1] == "${BASE}"
    assert all(name.startswith("${") for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"
    assert ":latest" not in text
    assert not re.search(r"(docker|quay|ghcr|gcr)\.(io|com)|https?://", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_installed_is_locked(path: Path):
    text = path.read_text(encoding="utf-8")
    assert "uv sync --locked" in text or "--require-hashes" in text or "uv.lock" in text
    for line in re.findall(r"pip install (.*)", text):
        assert "==" in line or "--require-hashes" in line or line.startswith("--"), line


def test_every_image_has_its_file():
    assert {ROOT / "infra/images" / name for name in DOCKERFILES.values()} == set(FILES)


def test_secrets_state_and_environments_do_not_enter_the_context():
    ignored = (ROOT / "infra/images/ignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {"**/.venv", "**/__pycache__"} <= set(ignored)
    assert not {"!.git", "!.", "!tests", "!docs"} & set(ignored)


def test_an_image_without_a_base_is_refused_with_what_to_give():
    with pytest.raises(Refused, match="--base"):
        build(Build("platform", "", "x"), with_=Builder("buildah"))


def test_a_base_from_packages_is_only_for_what_stands_on_none_of_ours():
    with pytest.raises(Refused, match="stands on an image"):
        bootstrap_base("worker", Builder("buildah"))


def test_only_what_an_image_lacks_is_added_at_the_locks_versions_and_what_it_has_is_kept():
    packages: dict[str, dict[str, Any]] = {
        "wanted": {
            "version": "2",
            "dependencies": [{"name": "pytest"}, {"name": "deeper"}, {"name": "w", "marker": "sys_platform == 'win32'"}],
        },
        "pytest": {"version": "1", "dependencies": [{"name": "not-looked-at"}]},
        "deeper": {"version": "3", "dependencies": [{"name": "wanted"}]},
    }
    assert list(missing(packages, ["wanted"])) == ["wanted==2", "deeper==3"]


def _buildah() -> Builder:
    program = shutil.which("buildah")
    if program is None or os.geteuid() != 0:
        pytest.skip("NOT BUILT: no buildah, or not root: NO IMAGE WAS TESTED")
    return Builder(program, {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"})


@pytest.mark.slow
@pytest.mark.images
def test_the_platforms_image_builds_here_and_its_commands_run():
    tool = _buildah()
    try:
        base = bootstrap_base("platform", tool)
    except Fault as error:
        pytest.skip(f"NOT BUILT: {error}: NO IMAGE WAS TESTED")
    tag = "localhost/seatrial-platform:test"
    built = build(Build("platform", base, tag), with_=tool)
    logging.getLogger(__name__).warning("platform image: %.0f MB, built in %.0f s", built.bytes / 1e6, built.seconds)
    assert built.bytes < 2.6e9
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", built.digest)
    container = tool.run("from", "--pull-never", tag).strip()
    try:
        said = tool.run("run", container, "--", "seatrial", "--version")
        assert said.startswith("seatrial, version ")
        modules = "infra.services.gateway, infra.services.control, infra.services.runner, infra.services.prepare, infra.kubernetes.doctor"
        assert tool.run("run", container, "--", "python", "-c", f"import os, {modules}; print(os.getuid())").strip() == "10001"
        with pytest.raises(Fault):
            tool.run("run", container, "--", "touch", "/opt/seatrial/written")
        lines = tool.run("run", container, "--", "sh", "-c", "SEATRIAL_HOME=/tmp/h python -m infra.services.prepare; ls /opt/seatrial")
        assert "prepared" in lines
        assert "tests" not in lines.split()
    finally:
        tool.run("rm", container)


@pytest.mark.slow
@pytest.mark.images
def test_the_same_commit_gives_the_same_bytes_of_our_own_layer(tmp_path: Path):
    """Files of ours and their bytecode do not depend on when they were compiled."""
    sums = []
    for name in ("a", "b"):
        shutil.copytree(ROOT / "core", tmp_path / name / "core", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(
            ["python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "core"], cwd=tmp_path / name, check=True
        )
        found = sorted((tmp_path / name).rglob("*.pyc"))
        sums.append([(path.name, path.read_bytes()) for path in found])
        os.utime(tmp_path / name / "core/__init__.py", (1, 1))
    assert sums[0]
    assert sums[0] == sums[1]
