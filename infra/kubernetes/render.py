"""`python -m infra.kubernetes.render`: what an installation puts on a cluster, in one file: to review, or for `kubectl apply -k`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from core.errors import Fault, Refused, SeatrialError

CHART = Path(__file__).parent / "chart"
EXAMPLE = Path(__file__).parent / "example-values.yaml"
KUBE_VERSION = "1.34.4"
_KUSTOMIZATION = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [seatrial.yaml]
"""


def helm_program(cache: Path | None = None) -> str:
    """Return a helm: the PATH's, else the one that infra/cluster built. Raises Fault."""
    built = (cache or Path.home() / ".cache/seatrial/cluster") / "bin/helm"
    found = shutil.which("helm") or (str(built) if built.exists() else None)
    if found is None:
        raise Fault("there is no helm", hint="install it, or let `infra/cluster` build it (`go build` of helm.sh/helm/v3/cmd/helm)")
    return found


def render(values: Sequence[Path], *, namespace: str = "seatrial", release: str = "seatrial", settings: Sequence[str] = ()) -> str:
    """Return the chart's manifests as YAML. Raises Refused with helm's own words for values that are wrong or missing."""
    command = [helm_program(), "template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBE_VERSION]
    for path in values:
        command += ["--values", str(path)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(done.stderr.strip()[-600:], reason="bad_values", hint="mend the values file; values.yaml tells each")
    return done.stdout


def write(values: Sequence[Path], out: Path, *, namespace: str = "seatrial", hooks: bool = False) -> Path:
    """Write `seatrial.yaml` and a kustomization into `out` and return the first. Helm's test hook is left out unless `hooks`."""
    text = render(values, namespace=namespace)
    documents = [part for part in text.split("\n---\n") if hooks or "helm.sh/hook" not in part]
    out.mkdir(parents=True, exist_ok=True)
    (out / "kustomization.yaml").write_text(_KUSTOMIZATION, encoding="utf-8")
    target = out / "seatrial.yaml"
    target.write_text("\n---\n".join(documents), encoding="utf-8")
    return target


@click.command()
@click.option("--values", type=click.Path(exists=True, dir_okay=False, path_type=Path), multiple=True, help="Values files.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(".render"), show_default=True, help="Folder to write into.")
@click.option("--namespace", default="seatrial", show_default=True)
def main(values: tuple[Path, ...], out: Path, namespace: str) -> None:
    """Render the chart into OUT: seatrial.yaml for review, and a kustomization for `kubectl apply -k OUT`."""
    try:
        target = write(values or (EXAMPLE,), out, namespace=namespace)
    except SeatrialError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{target}: {target.read_text(encoding='utf-8').count(chr(10) + 'kind: ')} objects; `kubectl apply -k {out}` installs them")


if __name__ == "__main__":
    main()
