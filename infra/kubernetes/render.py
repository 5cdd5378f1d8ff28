"""`python -m infra.kubernetes.render`: what an installation puts on a cluster, in one file: to review, or for `kubectl apply -k`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click
import yaml  # type: ignore[import-untyped]  # its stubs are not among our dependencies

from core.engines import EngineSpec
from core.errors import Fault, Refused, SeatrialError
from core.ids import Digest, VersionId
from core.reasons import Reason
from core.settings import GIB, read_settings
from serving.engines.kubernetes import autoscaling, manifests
from serving.engines.kubernetes.names import APPLIED
from serving.engines.kubernetes.pod_settings import pod_settings

CHART = Path(__file__).parent / "chart"
EXAMPLE = Path(__file__).parent / "example-values.yaml"
KUBE_VERSION = "1.34.4"
_KUSTOMIZATION = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [seatrial.yaml]
"""


def helm_program(cache: Path | None = None) -> str:
    """Return a helm: the PATH's, else the one that infra/testcluster built. Raises Fault."""
    built = (cache or Path.home() / ".cache/seatrial/cluster") / "bin/helm"
    found = shutil.which("helm") or (str(built) if built.exists() else None)
    if found is None:
        raise Fault("helm was not found", hint="install it, or let `infra/testcluster` build it (`go build` of helm.sh/helm/v3/cmd/helm)")
    return found


def render(
    values: Sequence[Path], *, namespace: str = "seatrial", release: str = "seatrial", settings: Sequence[str] = (), chart: Path = CHART
) -> str:
    """Return the chart's manifests as YAML. Raises Refused with helm's own words for values that are wrong or missing."""
    command = [helm_program(), "template", release, str(chart), "--namespace", namespace, "--kube-version", KUBE_VERSION]
    for path in values:
        command += ["--values", str(path)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(
            done.stderr.strip()[-600:], reason=Reason.BAD_VALUES, hint="correct the values file; values.yaml describes each value"
        )
    return done.stdout


def write(values: Sequence[Path], out: Path, *, namespace: str = "seatrial", hooks: bool = False) -> Path:
    """Write `seatrial.yaml`, a kustomization of it and `engine-example.yaml` into `out`; return the first.

    Helm's test hook is left out unless `hooks`.
    """
    text = render(values, namespace=namespace)
    documents = [part for part in text.split("\n---\n") if hooks or "helm.sh/hook" not in part]
    out.mkdir(parents=True, exist_ok=True)
    (out / "kustomization.yaml").write_text(_KUSTOMIZATION, encoding="utf-8")
    (out / "engine-example.yaml").write_text(engine_example(text, namespace), encoding="utf-8")
    target = out / "seatrial.yaml"
    target.write_text("\n---\n".join(documents), encoding="utf-8")
    return target


def engine_example(text: str, namespace: str) -> str:
    """Return, as YAML, what the adapter would make for one model under these settings: not in the chart, yet to be reviewed.

    Where the number of engines moves the autoscaler is KEDA's; a cluster without KEDA gets a HorizontalPodAutoscaler.
    """
    documents = [document for document in yaml.safe_load_all(text) if document]
    environ = next(item["data"] for item in documents if item["kind"] == "ConfigMap" and "SEATRIAL_HOME" in item["data"])
    settings = read_settings({"HOME": "/nowhere", **environ})
    here = pod_settings(namespace, settings.kubernetes, s3_endpoint_url=settings.s3_endpoint_url)
    spec = EngineSpec(
        version=VersionId("0" * 64),
        model_uri=f"{settings.weights_url}/MODEL",
        tensors_uri=f"{settings.weights_url}/TENSORS",
        tensors_manifest=Digest("0" * 64),
        max_model_len=settings.models.max_model_len or 8192,
        dtype="auto",
        memory_bytes=settings.models.engine_memory_bytes,
        weights_bytes=GIB,
    )
    made = manifests.deployment(spec, here)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": made["metadata"]["name"], "uid": "UID"}
    objects = [made, manifests.service(spec.version, here, owner), manifests.network_policy(spec.version, here, owner)]
    if autoscaling.autoscaled(here):
        objects.append(autoscaling.scaled_object(spec.version, here, owner))
    for item in objects:
        item["metadata"]["annotations"].pop(APPLIED, None)  # the object once more, as text
    return str(yaml.safe_dump_all(objects, sort_keys=False, width=140))


@click.command()
@click.option("--values", type=click.Path(exists=True, dir_okay=False, path_type=Path), multiple=True, help="Values files.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(".render"), show_default=True, help="Folder to write into.")
@click.option("--namespace", default="seatrial", show_default=True)
def main(values: tuple[Path, ...], out: Path, namespace: str) -> None:
    """Render into OUT: seatrial.yaml, a kustomization for `kubectl apply -k OUT`, and engine-example.yaml, to review only."""
    try:
        target = write(values or (EXAMPLE,), out, namespace=namespace)
    except SeatrialError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{target}: {target.read_text(encoding='utf-8').count(chr(10) + 'kind: ')} objects; `kubectl apply -k {out}` installs them")


if __name__ == "__main__":
    main()
