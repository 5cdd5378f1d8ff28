"""The platform installed by our own chart on the test cluster, with PostgreSQL, S3 and a hub beside it on the bridge's address.

Its image is bare; interpreter, environments and checkout come from this machine as claims (`helm --post-renderer` mounts them): what runs
is this working tree, and pods still pass the restricted standard, which forbids hostPath.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from core.ids import SubmissionId
from core.settings import Settings, read_settings
from core.submissions import StepName, StepState
from infra.kubernetes.render import CHART, helm_program
from infra.testcluster.addresses import GATEWAY
from infra.testcluster.cluster import Cluster
from infra.testcluster.images import File, busybox, make_image
from infra.testcluster.images import Settings as ImageSettings
from seatrial import Client
from seatrial.types import Submission
from serving.engines.kubernetes.api import Api
from tests.e2e.harness import MODELS, SEATRIAL, ended_or_none, environ_of, kill, perturb, pids, quietly, within
from tests.equipment.hub_server import HubServer
from tests.equipment.kube_real import admin
from tests.equipment.marked_traffic import MarkedTraffic
from tests.equipment.postgres import running_postgres
from tests.equipment.s3_server import S3Server
from wiring import Platform

ROOT = Path(__file__).resolve().parents[2]
ENGINE_ENVIRONMENT = ROOT / "serving/engines/vllm/.venv"
RELEASE = "seatrial"
BUCKET = "platform"
DATABASES = {"database-url": "postgresql", "prefect-database-url": "postgresql+asyncpg", "mlflow-database-url": "postgresql+psycopg"}
QUICK: Mapping[str, Any] = {
    "lease_s": 3,
    "trials_reference_gb": 0.01,
    "most_runs": 60,
    "rollout_pass_interval_s": 0.3,
    "rollout_synthetic_after_s": 0,
    "rollout_min_conversations": 4,
    "rollout_step_s": 2,
    "rollout_soak_s": 4,
    "rollout_deadline_s": 600,
    "rollout_drain_s": 10,
}
_SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "3Gi"}}
_POST_RENDERER = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.equipment.kube_mounts import mounted
sys.stdout.write(mounted(sys.stdin.read(), {claims!r}))
"""


class KubePlatform:
    """The whole platform in pods of one namespace. `settings` are those of the chart's value of that name.

    `jobs` is the environment of Prefect's own worker (equipment/prefect_worker.py): with it every flow run is a Job, else a process
    of the worker's pod.
    """

    def __init__(self, cluster: Cluster, folder: Path, jobs: Path | None = None, **settings: Any) -> None:
        self.cluster = cluster
        self.folder = folder
        self.jobs = jobs
        self.namespace = f"platform-{secrets.token_hex(3)}"
        self.key = f"st-{secrets.token_hex(24)}"
        self.hub = HubServer(folder / "hub", host=GATEWAY)
        self.s3 = S3Server(folder / "s3", GATEWAY)
        self._settings = {**QUICK, **settings}
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._parts.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def _start(self) -> None:
        (self.folder / "hub/org").mkdir(parents=True)
        self.postgres = self._parts.enter_context(running_postgres(GATEWAY))
        self._parts.enter_context(self.s3)
        self._parts.enter_context(self.hub)
        self.s3.bucket(BUCKET)
        for name in DATABASES:
            self.postgres.new_database(name=name)
        self.image = self._image("platform", Path(sys.prefix))
        self.jobs_image = self._image("jobs", self.jobs) if self.jobs else ""
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
        self.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}])
        self._parts.callback(self._uninstall)
        self._secrets()
        for claim, folder in self.claims.items():
            self.cluster.share(self.namespace, claim, folder)
        self._install(self.image)

    @property
    def kubectl(self) -> Any:
        return self.cluster.kubectl

    @cached_property
    def api(self) -> Api:
        """The namespace as its administrator sees it."""
        return admin(self.cluster.kubeconfig, self.namespace)

    @cached_property
    def claims(self) -> dict[str, Path]:
        """What every pod sees of this machine, by claim."""
        folders = {
            "usr": Path("/usr"),
            "lib": Path("/lib"),
            "lib64": Path("/lib64"),
            "checkout": ROOT,
            "python": Path(sys.base_prefix),
            "engine": ENGINE_ENVIRONMENT.resolve(),
            **({"jobs": self.jobs} if self.jobs else {}),
        }
        return {name: folder for name, folder in folders.items() if folder.exists()}

    @cached_property
    def mounts(self) -> dict[str, str]:
        """Where each claim is seen; a folder inside another that is seen already is left out."""
        places = {name: str(folder) for name, folder in self.claims.items()}
        return {name: place for name, place in places.items() if not any(Path(other) in Path(place).parents for other in places.values())}

    def _image(self, name: str, environment: Path) -> str:
        contents = [*busybox(), File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nseatrial:x:10001:10001::/tmp:/bin/sh\n")]
        environ = {
            "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'serving/engines/vllm'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        settings = ImageSettings(environ=environ, user="10001:10001", folder=str(ROOT))
        (loaded,) = self.cluster.load_image(make_image(self.folder / f"{name}.tar", f"seatrial.test/{name}:1", contents, settings))
        return loaded.pinned

    def _secrets(self) -> None:
        urls = {name: self.postgres.address(name, driver) for name, driver in DATABASES.items()}
        keys = {"AWS_ACCESS_KEY_ID": self.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.s3.secret_key}
        given = {"seatrial": {**urls, "operator-key": self.key}, "weights": keys}
        about = {"apiVersion": "v1", "kind": "Secret"}
        self.kubectl.apply(
            [{**about, "metadata": {"name": name, "namespace": self.namespace}, "stringData": content} for name, content in given.items()]
        )

    def values(self, image: str) -> dict[str, Any]:
        return {
            "images": {"platform": image, "worker": image, "engine": image},
            "weights": {"url": f"s3://{BUCKET}/weights", "endpoint": self.s3.url, "region": "us-east-1", "secret": "weights"},
            "mlflow": {"artifacts": f"s3://{BUCKET}/mlflow", "resources": _SMALL},
            "prefect": {"resources": _SMALL},
            "gateway": {"spool": {"ephemeral": True, "size": "1Gi"}, "resources": _SMALL},
            "control": {"replicas": 1, "resources": _SMALL},
            "worker": {
                "mode": "kubernetes" if self.jobs else "process",
                "image": self.jobs_image,
                "scratch": "4Gi",
                "resources": {**_SMALL, "limits": {"memory": "6Gi"}},
            },
            "engines": {
                "cpu": 0.05,
                "pre_stop_s": 3,
                "pull_limit_s": 5,
                "queue_s": 5,
                "python": str(ENGINE_ENVIRONMENT.resolve() / "bin/python"),
                "environ": f"PYTHONPATH={ROOT}:{ROOT / 'serving/engines/vllm'}",
                "claims": ",".join(f"{name}={place}" for name, place in self.mounts.items()),
            },
            "settings": {
                "hub_endpoint": self.hub.url,
                "engine_module": "tests.equipment.either_engine",
                "models_engine_memory_bytes": 4 * 2**30,
                **self._settings,
            },
        }

    def _install(self, image: str) -> None:
        values = self.folder / "values.json"
        values.write_text(json.dumps(self.values(image), indent=1))
        renderer = self.folder / "post-renderer"
        mounts = {**{name: [place] for name, place in self.mounts.items()}}
        mounts.setdefault("engine", []).append("/opt/engine")  # where the chart expects the tensorizer's interpreter
        renderer.write_text(_POST_RENDERER.format(python=sys.executable, root=str(ROOT), claims=mounts))
        renderer.chmod(0o755)
        command = [helm_program(), "install", RELEASE, str(CHART), "--namespace", self.namespace, "--values", str(values)]
        self.helm(*command[1:], "--post-renderer", str(renderer), "--wait", "--timeout", "5m")

    def helm(self, *words: str) -> str:
        command = [helm_program(), "--kubeconfig", str(self.cluster.kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, f"{done.stderr[-1500:]}\n{self.said()}"
        return done.stdout

    def said(self) -> str:
        """What there is to read when something did not come up: pods, events, and the end of each log."""
        parts = [self.words("get", "pods", "-o", "wide"), self.words("get", "events", "--sort-by=.lastTimestamp")[-4000:]]
        for pod in self.words("get", "pods", "-o", "name").split():
            parts += [f"--- {pod}", self.words("logs", pod, "--all-containers", "--tail=25")]
        return "\n".join(parts)

    def words(self, *words: str, limit_s: float = 60.0) -> str:
        """Run kubectl in the namespace and return what it says, errors too."""
        command = [str(self.kubectl.program), "--kubeconfig", str(self.cluster.kubeconfig), "-n", self.namespace, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
        return done.stdout + done.stderr

    def _uninstall(self) -> None:
        """Begin to take it away, and wait for nothing: the cluster itself goes soon."""
        self.words("delete", "deployments,statefulsets,jobs", "--all", "--cascade=background", "--wait=false")
        self.words("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
        for claim in self.claims:
            self.words("delete", "persistentvolume", f"{self.namespace}-{claim}", "--wait=false")
        self.words("delete", "namespace", self.namespace, "--wait=false")

    def service(self, component: str, port: int) -> str:
        """The URL of a component's Service, which this machine reaches by its address."""
        address = self.words("get", "service", f"{RELEASE}-{component}", "-o", "jsonpath={.spec.clusterIP}")
        assert re.fullmatch(r"[0-9.]+", address), address
        return f"http://{address}:{port}"

    @cached_property
    def gateway_url(self) -> str:
        return self.service("gateway", 8800)

    @cached_property
    def control_url(self) -> str:
        return self.service("control", 8700)

    def client(self) -> Client:
        return Client(self.control_url, self.key)

    @cached_property
    def settings(self) -> Settings:
        database = self.postgres.address("database-url")
        return read_settings({"HOME": str(self.folder), "SEATRIAL_DATABASE_URL": database, "SEATRIAL_HOME": str(self.folder / "home")})

    @cached_property
    def platform(self) -> Platform:
        """The database, as the tests look at it."""
        return Platform(self.settings)

    def model(self, name: str, of: str = "steady", *, seed: int | None = None, **fake: Any) -> str:
        """Put a model on the hub: a copy of one of ours for real vLLM, or with `fake` (see fake_engine) for the fake."""
        folder = self.folder / "hub/org" / name
        shutil.copytree(MODELS / of, folder)
        if seed is not None:
            perturb(folder, seed)
        if fake:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "seatrial_fake": fake}))
        return f"org/{name}"

    def traffic(self, endpoint: str, users: int = 4) -> MarkedTraffic:
        return MarkedTraffic(self.gateway_url, self.key, endpoint, users)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as from a laptop."""
        given = {name: value for name, value in os.environ.items() if not name.startswith("SEATRIAL_")}
        given |= {"SEATRIAL_URL": self.control_url, "SEATRIAL_KEY": self.key, "COLUMNS": "160"}
        return subprocess.run([str(SEATRIAL), *words], env=given, capture_output=True, text=True, timeout=120, check=False)

    def submit(self, model: str, endpoint: str) -> Submission:
        with self.client() as client:
            return client.submissions.submit(model, endpoint)

    def finish(self, submission: str, limit_s: float = 240.0) -> Submission:
        """Wait for the end of a submission; the control API may be away for a while."""
        with self.client() as client:
            look: Callable[[], Any] = lambda: quietly(lambda: ended_or_none(client.submissions.get(submission)))  # noqa: E731
            ended = within(limit_s, look, f"the end of {submission}", pause_s=0.3)
        assert isinstance(ended, Submission)
        return ended

    def deploy(self, model: str, endpoint: str, limit_s: float = 240.0) -> Submission:
        return self.finish(self.submit(model, endpoint).id, limit_s)

    @contextmanager
    def worker_with(self, **environ: str) -> Iterator[None]:
        """Run the worker with other settings meanwhile, as an operator would."""
        deployment = f"deployment/{RELEASE}-worker"
        self.words("set", "env", deployment, *(f"{name}={value}" for name, value in environ.items()))
        try:
            self._rolled_out(deployment)
            yield
        finally:
            self.words("set", "env", deployment, *(f"{name}-" for name in environ))
            self._rolled_out(deployment)

    def _rolled_out(self, deployment: str) -> None:
        """Wait until the old pod is gone and the new one is ready: the old one would else take what is meant for the new one."""
        assert "successfully rolled out" in self.words("rollout", "status", deployment, "--timeout=150s", limit_s=160)

    def pods(self, component: str, *, version: str | None = None) -> list[str]:
        """Names of a component's pods that are not on their way out."""
        selector = f"app.kubernetes.io/component={component}" + (f",seatrial.dev/version={version[:32]}" if version else "")
        found = json.loads(self.words("get", "pods", "-l", selector, "-o", "json"))["items"]
        return [pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def delete_pod(self, name: str, *, grace_s: int | None = None) -> None:
        """As `kubectl delete pod` does; `grace_s` 0 kills at once."""
        force = ["--force", "--grace-period=0"] if grace_s == 0 else [] if grace_s is None else [f"--grace-period={grace_s}"]
        self.words("delete", "pod", name, "--wait=false", *force)

    def kill_pod(self, name: str) -> int:
        """SIGKILL every process of a pod at this very moment, then let its owner make another; return how many were killed."""
        found = self.processes(name)
        kill(*found)
        self.delete_pod(name, grace_s=0)
        return len(found)

    def processes(self, pod: str) -> list[int]:
        """Pids of a pod's processes, as this machine sees them."""
        return [pid for pid in pids() if f"\0HOSTNAME={pod}\0" in f"\0{environ_of(pid)}"]

    def reaches(self, submission: str, step: StepName, limit_s: float = 240.0) -> None:
        """Return when `step` has begun, or has passed where it took no time."""
        order = list(StepName)

        def begun() -> bool:
            row = self.platform.records.submissions.get(SubmissionId(submission))
            reached = [order.index(seen.name) for seen in row.steps if seen.state is not StepState.RETRYING]
            return row.state.ended or (bool(reached) and max(reached) >= order.index(step))

        within(limit_s, begun, f"step {step} of {submission}", pause_s=0.02)

    def message(self, submission: str, step: StepName) -> str:
        """What a step says of itself now."""
        row = self.platform.records.submissions.get(SubmissionId(submission))
        return next((seen.message for seen in reversed(row.steps) if seen.name is step), "")

    def engines(self, endpoint: str) -> dict[str, str]:
        """What each engine's Deployment is to the endpoint, by the version's label."""
        found = json.loads(self.words("get", "deployments", "-l", "app.kubernetes.io/component=engine", "-o", "json"))["items"]
        labels = [item["metadata"]["labels"] for item in found if not item["metadata"].get("deletionTimestamp")]
        name = f"endpoint.seatrial.dev/{endpoint}"
        return {label["seatrial.dev/version"]: label[name] for label in labels if name in label}
