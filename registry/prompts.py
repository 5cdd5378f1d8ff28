"""MLflow's prompt registry: every text that benchmarks put around a problem, by name and version.

Registering is not idempotent there (measured, MLflow 3.17: the same text again is a new version), so a text is looked up by the tag that
holds its sha256 first.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from core.errors import Refused
from core.ids import Digest
from core.reasons import Reason
from registry.models import EXISTS, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DIGEST_TAG = "seatrial.sha256"
_VERSION_TAG = "seatrial.version"
_MOST_VERSIONS = 1000
_PREFIX = "prompt."
"""MLflow keeps prompts and models in one list of names; ours for models are endpoints', which have no dot (`core.submissions`)."""


class Template(Protocol):
    """A prompt as suites have it (`evals.suites.suite.PromptTemplate`): a text under a name, and the version that its file gives it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> Digest: ...  # noqa: D102


class MlflowPrompts:
    """Prompts on an MLflow server. Errors: Transient while the server is unavailable, Fault for a request that it refuses."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._opened: MlflowClient | None = None
        self._pinned: dict[tuple[str, Digest], str] = {}
        self._lock = threading.Lock()

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            from mlflow import MlflowClient  # noqa: PLC0415 - seconds of import that only this adapter needs

            self._opened = MlflowClient(self._uri, registry_uri=self._uri)
        return self._opened

    def pin(self, template: Template) -> str:
        """Return `prompt.NAME@version` of this very text in the registry; the text is entered when it is not there yet.

        The version is the registry's own count. Raises Refused when the file's version stands there with another text: then the file was
        changed without a new version, and scores by the two would be taken for comparable.
        """
        key = (template.name, template.digest)
        with self._lock:
            if key not in self._pinned:
                with translated(self._uri):
                    self._pinned[key] = f"{_PREFIX}{template.name}@{self._number(template)}"
            return self._pinned[key]

    def _number(self, template: Template) -> int:
        """Return the least version with this text: should two processes have entered it at once, both name the same one."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        mine = self._versions(template)
        if not mine:
            try:
                self._enter(template)
            except MlflowException as error:
                if error.error_code != EXISTS:
                    raise
                self._enter(template)  # another process made the name at this very moment; now it takes versions
            mine = self._versions(template)
        return min(mine)

    def _enter(self, template: Template) -> None:
        tags = {_DIGEST_TAG: template.digest, _VERSION_TAG: str(template.version)}
        said = f"version {template.version} of seatrial"
        self._client.register_prompt(_PREFIX + template.name, template.text, commit_message=said, tags=tags)

    def _versions(self, template: Template) -> list[int]:
        name = _PREFIX + template.name
        if self._client.get_prompt(name) is None:
            return []
        found = list(self._client.search_prompt_versions(name, max_results=_MOST_VERSIONS))
        for one in found:
            same_version = one.tags.get(_VERSION_TAG) == str(template.version)
            if same_version and one.tags.get(_DIGEST_TAG) != template.digest:
                raise Refused(
                    f"the prompt {template.name} has another text at version {template.version} in the prompt registry",
                    reason=Reason.PROMPT_CHANGED,
                    hint="give the changed text a new version in the suite's .suite.toml",
                )
        return [int(one.version) for one in found if one.tags.get(_DIGEST_TAG) == template.digest]
