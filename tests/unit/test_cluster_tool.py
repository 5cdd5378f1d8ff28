"""The test cluster's tool where it needs no cluster: what it builds, what it writes, what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from core.errors import Conflict, Fault, NotFound, Refused
from core.ports.clock import VirtualClock
from infra.testcluster.api import wait_until
from infra.testcluster.borrowed import Existing, at_hand
from infra.testcluster.build import PIECES, build, folder_of, version_of
from infra.testcluster.certificates import Certificates
from infra.testcluster.cluster import Cluster, running
from infra.testcluster.images import Content, File, Folder, Link, Settings, make_image
from infra.testcluster.state import Home


@pytest.mark.parametrize("name", sorted(PIECES))
def test_each_piece_is_pinned_and_its_place_tells_its_version(name: str, tmp_path: Path) -> None:
    piece = PIECES[name]
    assert folder_of(piece, tmp_path).name.startswith(f"{name}-{version_of(piece)}-")


def test_a_piece_in_the_cache_is_not_built_again(tmp_path: Path) -> None:
    folder = folder_of(PIECES["etcd"], tmp_path)
    folder.mkdir()
    said: list[str] = []
    assert build("etcd", tmp_path, said.append).folder == folder
    assert said == []


def test_without_go_the_machine_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("infra.testcluster.build._USUAL_GO", tmp_path / "go")
    with pytest.raises(Fault, match=r"Go toolchain is not on this machine.*install Go"):
        build("etcd", tmp_path / "cache", lambda _words: None)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_the_same_contents_make_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").write_text("x")
    contents: list[Content] = [File("bin/run", b"#!/bin/sh\n", 0o755), Link("bin/sh", "run"), Folder("data", tmp_path / "tree")]
    archives: list[bytes] = []
    for name in ("one", "two"):
        os.utime(tmp_path / "tree/below/file", (len(archives), len(archives)))
        archives.append(make_image(tmp_path / f"{name}.tar", "a.local/b:1", contents, Settings(command=("run",))).read_bytes())
    assert archives[0] == archives[1]
    with tarfile.open(tmp_path / "one.tar") as archive:
        (layer,) = [member for member in archive if member.name.endswith("layer.tar")]
        with tarfile.open(fileobj=archive.extractfile(layer)) as inner:
            assert inner.getnames() == ["bin/run", "bin/sh", "data", "data/below", "data/below/file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tar", "tree", "two.tar"]


def test_a_certificate_is_signed_by_its_authority_and_made_once(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    pair = certificates.issue("ada", "ada", groups=("developers",), hosts=("localhost", "127.0.0.1"))
    first = pair.certificate.read_bytes()
    assert certificates.issue("ada", "ada").certificate.read_bytes() == first
    assert pair.key.stat().st_mode & 0o077 == 0
    verified = subprocess.run(["openssl", "verify", "-CAfile", certificates.authority.certificate, pair.certificate], check=False)
    assert verified.returncode == 0


def test_a_name_that_would_forge_a_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be a name"):
        Certificates(tmp_path).issue("x", "ada/O=system:masters")


def test_a_process_is_found_again_by_another_and_stopped_with_its_session(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.begin("simulated")
    home.run("sleeper", [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"])
    again = Home(tmp_path / "home")
    assert again.lives("sleeper")
    again.stop("sleeper")
    assert not home.lives("sleeper")
    home.resume("sleeper")
    assert home.lives("sleeper")
    home.stop_all()
    assert not home.lives("sleeper")
    home.forget()
    assert not (tmp_path / "home").exists()


def test_a_process_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.begin("simulated")
    home.run("fool", ["sh", "-c", "echo no such flag; exit 2"])
    with pytest.raises(Fault, match=r"fool ended unexpectedly: no such flag"):
        home.wait("fool", lambda: False)
    home.forget()


def test_what_never_becomes_ready_is_told_with_why() -> None:
    with pytest.raises(Exception, match=r"the moon is not ready after 5 s; it is cloudy"):
        wait_until("the moon", lambda: False, VirtualClock(), 5.0, why=lambda: "it is cloudy")


def test_a_home_keeps_one_kind_of_cluster(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.begin("simulated")
    with pytest.raises(Conflict, match="already has a cluster of kind simulated"):
        Home(tmp_path).begin("node")


def test_a_state_of_another_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"daemons": {}, "something": 1}')
    with pytest.raises(Fault, match="cannot be read"):
        Home(tmp_path)


def test_down_without_a_cluster_does_nothing_and_others_say_so(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "none")
    cluster.down()
    for ask in (lambda: cluster.kubeconfig, lambda: cluster.node, lambda: running(tmp_path / "none")):
        with pytest.raises(NotFound):
            ask()


def test_what_cannot_go_together_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "home", cache=tmp_path / "cache")
    with pytest.raises(Refused, match="no addon istio"):
        cluster.up(addons=["istio"])
    with pytest.raises(Refused, match="addons need a real node"):
        cluster.up(simulated_nodes=2, addons=["keda"])
    assert not (tmp_path / "cache").exists()


def test_what_is_at_hand_is_taken_and_a_home_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    home, elsewhere = Home(tmp_path / "home"), tmp_path / "team.kubeconfig"
    assert at_hand(home, {}) == at_hand(home, {"KUBECONFIG": str(elsewhere)}) == "own", "a kubeconfig that is gone is none"
    elsewhere.touch()
    assert at_hand(home, {"KUBECONFIG": f"{tmp_path}/gone:{elsewhere}"}) == "existing"
    (programs / "kind").touch(0o755)
    (programs / "docker").write_text("#!/bin/sh\nexit 1\n")
    (programs / "docker").chmod(0o755)
    assert at_hand(home, {}) == "own", "kind without Docker makes nothing"
    (programs / "docker").write_text("#!/bin/sh\nexit 0\n")
    assert at_hand(home, {}) == "kind"
    home.begin("node")
    ours = home.folder / "kubeconfigs/admin.kubeconfig"
    ours.parent.mkdir()
    ours.touch()
    assert at_hand(home, {"KUBECONFIG": str(ours)}) == at_hand(home, {"KUBECONFIG": str(elsewhere)}) == "own"


def test_an_existing_cluster_is_used_only_when_kubeconfig_says_which(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="KUBECONFIG is not set"):
        Existing(Home(tmp_path), given="").up()
