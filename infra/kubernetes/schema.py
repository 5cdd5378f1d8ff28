"""`python -m infra.kubernetes.schema`: writes the list of settings into the chart's schema, so that Helm refuses an unknown setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import click

from core.settings import PREFIX, listing, read_settings
from infra.kubernetes.render import CHART

SCHEMA = CHART / "values.schema.json"
GROUP = "kubernetes_"
"""The settings that the chart calls `engines`."""

_GIVEN = {
    *("home", "bind_host", "control_url", "gateway_url", "engines_url", "weights_url", "s3_endpoint_url", "prefect_api_url", "mlflow_url"),
    *("public_url", "kubernetes_image", "kubernetes_pull_secret", "kubernetes_weights_secret", "kubernetes_metrics_namespace"),
    *("kubernetes_kubeconfig", "kubernetes_context", "kubernetes_installation", "kubernetes_allow_tags"),
}
"""What other values of the chart decide, or the pods themselves."""

_TYPES = {int: "integer", float: "number", str: ["string", "number"]}
"""A text may look like a number: benchmarks_temperature: 0.2."""


def schema() -> str:
    """Return the chart's schema with the properties of `engines` and `settings` as the settings are now."""
    settings = [(name, kind, doc) for name, kind, doc in _settings() if name not in _GIVEN]
    engines = _group("engines", [(name.removeprefix(GROUP), kind, doc) for name, kind, doc in settings if name.startswith(GROUP)])
    others = _group("settings", [entry for entry in settings if not entry[0].startswith(GROUP)])
    text = SCHEMA.read_text(encoding="utf-8")
    return re.sub(r'^ {4}"engines": .*?(?=^ {4}"network": )', lambda _: engines + others, text, flags=re.MULTILINE | re.DOTALL)


def _settings() -> Iterator[tuple[str, type, str]]:
    for name, value, doc, _default in listing(read_settings({"HOME": "/nowhere"})):
        yield name.removeprefix(PREFIX).lower(), type(value), doc


def _group(name: str, entries: list[tuple[str, type, str]]) -> str:
    lines = [f"      {json.dumps(entry)}: {json.dumps({'type': _TYPES[kind], 'description': doc})}" for entry, kind, doc in entries]
    return f'    "{name}": {{"type": "object", "additionalProperties": false, "properties": {{\n' + ",\n".join(lines) + "}},\n"


@click.command()
def main() -> None:
    """Write the schema. Run it after a setting was added, changed or removed."""
    SCHEMA.write_text(schema(), encoding="utf-8")
    click.echo(f"{SCHEMA}: written")


if __name__ == "__main__":
    main()
