"""`python -m infra.testcluster`: a cluster for tests and for trying things out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from core.errors import Refused, SeatrialError
from core.settings import base_environ
from infra.testcluster.addons import ADDONS
from infra.testcluster.borrowed import Existing, Kind, at_hand
from infra.testcluster.build import PIECES, build, default_cache
from infra.testcluster.cluster import Cluster
from infra.testcluster.state import Home


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked; return the exit code: 0 done, 1 with the reason on stderr, 3 from `status` when something does not run."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.do(given) or 0)
    except SeatrialError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def default_home() -> Path:
    """Return the cluster's home below the user's cache directory (XDG)."""
    return default_cache().parent / "home"


def _up(given: argparse.Namespace) -> None:
    began = time.monotonic()
    taken = given.cluster or ("own" if given.simulated_nodes else at_hand(Home(given.home), base_environ()))
    if given.addons and taken != "own":
        raise Refused(f"--with installs addons into a cluster of our own only, and this is {taken}", hint="leave it out, or add --own")
    if taken == "existing":
        borrowed = Existing(Home(given.home), base_environ().get("KUBECONFIG", ""), given.context)
        borrowed.up()
        kubeconfig, words = borrowed.kubeconfig, f"using the existing cluster at {borrowed.server} (from KUBECONFIG); nothing was started"
    elif taken == "kind":
        kind = Kind(Home(given.home))
        kind.up()
        kubeconfig, words = kind.kubeconfig, "using a kind cluster named seatrial"
    else:
        cluster = Cluster(given.home)
        cluster.up(simulated_nodes=given.simulated_nodes, addons=[name for name in given.addons.split(",") if name])
        what = f"{given.simulated_nodes} simulated nodes" if given.simulated_nodes else "one real node"
        kubeconfig, words = cluster.kubeconfig, f"using a cluster of our own with {what}"
    print(f"{words}; up after {time.monotonic() - began:.1f} s")
    print(f"export KUBECONFIG={kubeconfig}")


def _down(given: argparse.Namespace) -> None:
    home, began = Home(given.home), time.monotonic()
    match home.state.kind:
        case "existing":
            home.forget()
            print("the existing cluster is left as it is")
        case "kind":
            Kind(home).down()
        case _:
            Cluster(given.home).down()
    print(f"down after {time.monotonic() - began:.1f} s" if home.state.kind else f"there was no cluster in {given.home}")


def _status(given: argparse.Namespace) -> int:
    home = Home(given.home)
    if not home.state.kind:
        print(f"no cluster in {given.home}")
        return 3
    rows = {name: home.lives(name) for name in home.state.daemons}
    print(f"{home.state.kind} cluster in {given.home}, kubeconfig {home.state.kubeconfig or 'none yet'}")
    for name, lives in rows.items():
        print(f"  {name:20} {'runs' if lives else 'DOES NOT RUN'}")
    return 0 if all(rows.values()) and home.state.complete else 3


def _load(given: argparse.Namespace) -> None:
    home = Home(given.home)
    if home.state.kind == "kind":
        Kind(home).load_image(given.tar)
        return
    if home.state.kind == "existing":
        raise Refused(
            "an image cannot be put on the nodes of somebody's cluster", hint="push it to the registry that the cluster pulls from"
        )
    for image in Cluster(given.home).load_image(given.tar):
        print(f"{image.name}\n{image.pinned}")


def _kubeconfig(given: argparse.Namespace) -> None:
    home = Home(given.home)
    if given.user:
        print(Cluster(given.home).kubeconfig_of_user(given.user, *given.group))
    else:
        print(home.state.kubeconfig or Cluster(given.home).kubeconfig)


def _build(given: argparse.Namespace) -> None:
    for name in given.pieces or PIECES:
        built = build(name, default_cache(), print)
        size = sum(file.stat().st_size for file in built.folder.rglob("*") if file.is_file()) / 1e6
        how = f"built in {built.seconds:.0f} s" if built.seconds else "cached"
        print(f"{name:16} {built.version:10} {size:6.0f} MB  {how:16} {built.folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.testcluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    homed = argparse.ArgumentParser(add_help=False)
    homed.add_argument(
        "--home", type=lambda text: Path(text).absolute(), default=default_home(), help="state directory (default: %(default)s)"
    )

    up = commands.add_parser(
        "up", parents=[homed], help="take the cluster of KUBECONFIG, else kind's, else build one; start what of it does not run"
    )
    up.set_defaults(do=_up)
    where = up.add_mutually_exclusive_group()
    for name, words in (
        ("existing", "use the cluster of KUBECONFIG"),
        ("kind", "use a kind cluster (needs kind and Docker)"),
        ("own", "build and start one, whatever else is there"),
    ):
        where.add_argument(f"--{name}", dest="cluster", action="store_const", const=name, default="", help=words)
    where.add_argument("--simulated-nodes", type=int, default=0, metavar="N", help="no real node but N that kwok plays; needs no root")
    up.add_argument("--context", default="", help="context of KUBECONFIG (default: its current one)")
    up.add_argument("--with", dest="addons", default="", metavar="NAMES", help=f"addons, separated by commas: {', '.join(ADDONS)}")
    for name, do, words in (
        ("down", _down, "take it down; nothing is left"),
        ("status", _status, "say what runs"),
    ):
        commands.add_parser(name, parents=[homed], help=words).set_defaults(do=do)
    load = commands.add_parser("load-image", parents=[homed], help="import a docker or OCI archive into the node")
    load.add_argument("tar", type=Path)
    load.set_defaults(do=_load)
    kubeconfig = commands.add_parser("kubeconfig", parents=[homed], help="print the path of a kubeconfig: the administrator's, or a user's")
    kubeconfig.add_argument("--user", default="", help="a user with no permissions except what RBAC grants")
    kubeconfig.add_argument("--group", action="append", default=[])
    kubeconfig.set_defaults(do=_kubeconfig)
    builder = commands.add_parser("build", help="build the programs into the cache")
    builder.add_argument("pieces", nargs="*", choices=[[], *PIECES], metavar="PIECE", help=f"default: all of {', '.join(PIECES)}")
    builder.set_defaults(do=_build)
    return parser


if __name__ == "__main__":
    sys.exit(main())
