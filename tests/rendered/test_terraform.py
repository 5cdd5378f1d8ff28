"""What `terraform apply` would make, against a mocked provider: its own assertions, and policies over the JSON of the result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from core.settings import GIB, KubernetesPolicy
from tests.equipment import terraform_policies as policies
from tests.equipment.chart_objects import Object, of_kind, tiny
from tests.equipment.chart_objects import objects as chart_objects
from tests.equipment.s3_rights import ON_BUCKET, ON_OBJECTS, operations, rights
from tests.equipment.terraform import (
    SOURCE,
    Resource,
    Terraform,
    changed,
    messages,
    resources,
    terraform_here,
    with_one_more,
    without,
)
from tests.equipment.terraform_policies import Policy

pytestmark = pytest.mark.slow
WHOLE = "everything_together_gives_the_charts_values"
REPOSITORY = SOURCE.parents[1]
S3_CALLERS = [
    ("worker", "registry/weights/s3.py"),
    ("worker", "infra/kubernetes/doctor.py"),
    ("engine", "serving/engines/vllm/seatrial_engine/store.py"),
]
POLICIES = [
    policies.no_bucket_can_become_public,
    policies.nothing_is_granted_by_a_wildcard,
    policies.only_policies_of_aws_that_we_chose_are_attached,
    policies.everything_that_holds_data_is_encrypted,
    policies.only_the_nodes_come_in,
    policies.nothing_has_a_public_address,
    policies.pods_cannot_reach_the_credentials_of_nodes,
    policies.machines_are_in_private_subnets,
    policies.data_outlives_a_mistake,
]


def grant(**more: Any) -> str:
    """Return a policy document of one statement."""
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], **more}]})


BROKEN = [
    *(
        (policies.no_bucket_can_become_public, "aws_s3_bucket_public_access_block", [name], False)
        for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    ),
    *(
        (policies.nothing_is_granted_by_a_wildcard, "aws_iam_role_policy", ["policy"], grant(**more))
        for more in (
            {"Action": ["s3:*"], "Resource": ["arn:aws:s3:::bucket"]},
            {"Action": "*", "Resource": ["arn:aws:s3:::bucket"]},
            {"Resource": "*"},
            {"Resource": ["arn:aws:s3:::*"]},
            {"NotResource": ["arn:aws:s3:::bucket"]},
            {"Resource": "*", "Action": ["ec2:DescribeImages", "ec2:TerminateInstances"]},
        )
    ),
    *((policies.nothing_is_granted_by_a_wildcard, "aws_s3_bucket_policy", ["policy"], grant(Principal=who)) for who in ("*", {"AWS": "*"})),
    (
        policies.only_policies_of_aws_that_we_chose_are_attached,
        "aws_iam_role_policy_attachment",
        ["policy_arn"],
        "arn:aws:iam::aws:policy/AdministratorAccess",
    ),
    (policies.everything_that_holds_data_is_encrypted, "aws_kms_key", ["enable_key_rotation"], False),
    (
        policies.everything_that_holds_data_is_encrypted,
        "aws_s3_bucket_server_side_encryption_configuration",
        ["rule", 0, "apply_server_side_encryption_by_default", 0, "sse_algorithm"],
        "AES256",
    ),
    (policies.everything_that_holds_data_is_encrypted, "aws_db_instance", ["storage_encrypted"], False),
    (policies.everything_that_holds_data_is_encrypted, "aws_db_instance", ["manage_master_user_password"], None),
    (policies.everything_that_holds_data_is_encrypted, "aws_db_parameter_group", ["parameter"], []),
    (policies.everything_that_holds_data_is_encrypted, "aws_elasticache_replication_group", ["at_rest_encryption_enabled"], "false"),
    (policies.everything_that_holds_data_is_encrypted, "aws_elasticache_replication_group", ["transit_encryption_enabled"], False),
    (policies.everything_that_holds_data_is_encrypted, "aws_elasticache_replication_group", ["transit_encryption_mode"], "preferred"),
    (policies.everything_that_holds_data_is_encrypted, "aws_launch_template", ["block_device_mappings", 0, "ebs", 0, "encrypted"], "false"),
    (policies.everything_that_holds_data_is_encrypted, "aws_eks_cluster", ["encryption_config"], []),
    (policies.only_the_nodes_come_in, "aws_vpc_security_group_ingress_rule", ["referenced_security_group_id"], "sg-others"),
    (policies.only_the_nodes_come_in, "aws_vpc_security_group_ingress_rule", ["cidr_ipv4"], "0.0.0.0/0"),
    (policies.only_the_nodes_come_in, "aws_vpc_security_group_ingress_rule", ["cidr_ipv6"], "::/0"),
    (policies.only_the_nodes_come_in, "aws_security_group", ["ingress"], [{"cidr_blocks": ["0.0.0.0/0"]}]),
    (policies.only_the_nodes_come_in, "aws_default_security_group", ["ingress"], [{"self": True}]),
    (policies.nothing_has_a_public_address, "aws_db_instance", ["publicly_accessible"], True),
    (policies.nothing_has_a_public_address, "aws_eks_cluster", ["vpc_config", 0, "endpoint_public_access"], True),
    (policies.pods_cannot_reach_the_credentials_of_nodes, "aws_launch_template", ["metadata_options", 0, "http_tokens"], "optional"),
    (policies.pods_cannot_reach_the_credentials_of_nodes, "aws_launch_template", ["metadata_options", 0, "http_put_response_hop_limit"], 2),
    (policies.nothing_has_a_public_address, "aws_subnet", ["map_public_ip_on_launch"], True),
    (policies.data_outlives_a_mistake, "aws_db_instance", ["deletion_protection"], False),
    (policies.data_outlives_a_mistake, "aws_db_instance", ["skip_final_snapshot"], True),
    (policies.data_outlives_a_mistake, "aws_db_instance", ["backup_retention_period"], 1),
    (policies.data_outlives_a_mistake, "aws_s3_bucket", ["force_destroy"], True),
]
LACKING = [
    (policies.no_bucket_can_become_public, "aws_s3_bucket_public_access_block"),
    (policies.everything_that_holds_data_is_encrypted, "aws_s3_bucket_server_side_encryption_configuration"),
    (policies.machines_are_in_private_subnets, "aws_route_table_association"),
]
TOO_MUCH = [
    (policies.no_bucket_can_become_public, "aws_s3_bucket_acl", {"acl": "public-read"}),
    (policies.no_bucket_can_become_public, "aws_s3_bucket", {"id": "another"}),
    (policies.everything_that_holds_data_is_encrypted, "aws_s3_bucket", {"id": "another"}),
    (policies.only_the_nodes_come_in, "aws_security_group_rule", {"type": "ingress", "cidr_blocks": ["0.0.0.0/0"]}),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    return terraform_here(tmp_path_factory.mktemp("terraform"))


@pytest.fixture(scope="module")
def told(here: Terraform) -> list[dict[str, Any]]:
    return list(messages(here.run("test", "-json", "-verbose").stdout))


@pytest.fixture(scope="module")
def state(told: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = next(item["test_state"] for item in told if item["type"] == "test_state" and item.get("@testrun") == WHOLE)
    return found


@pytest.fixture(scope="module")
def made(state: dict[str, Any]) -> list[Resource]:
    return list(resources(state))


@pytest.fixture(scope="module")
def values(state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(state["outputs"]["values"]["value"])
    return found


@pytest.fixture(scope="module")
def rendered(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Return the chart's objects with the outputs for values."""
    written = tmp_path_factory.mktemp("chart") / "aws.yaml"
    written.write_text(state["outputs"]["values"]["value"])
    return chart_objects(*(setting for setting in tiny() if setting.startswith("images")), values=(written,))


def test_it_is_valid_and_formatted(here: Terraform):
    assert here.run("fmt", "-recursive", "-check").stdout == ""
    assert json.loads(here.run("validate", "-json").stdout)["valid"] is True


def test_every_assertion_of_its_own_tests_holds(told: list[dict[str, Any]]):
    (summary,) = [item["test_summary"] for item in told if item["type"] == "test_summary"]
    assert summary["status"] == "pass", [item["@message"] for item in told if item["type"] == "diagnostic"]
    assert summary["passed"] == len(re.findall(r'^run "', (SOURCE / "tests/policies.tftest.hcl").read_text(), re.MULTILINE))
    assert summary["skipped"] == 0


def test_it_makes_what_the_issue_lists(made: list[Resource]):
    assert {"aws_vpc", "aws_eks_cluster", "aws_eks_node_group", "aws_s3_bucket", "aws_db_instance", "aws_iam_role"} <= {
        r.type for r in made
    }
    assert len([r for r in made if r.type == "aws_eks_node_group"]) == 2
    assert [r.type for r in made].count("aws_elasticache_replication_group") == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_holds_of_all_that_is_made(made: list[Resource], policy: Policy):
    assert list(policy(made)) == []


@pytest.mark.parametrize(("policy", "kind", "path", "value"), BROKEN)
def test_a_policy_notices_one_value_that_breaks_it(made: list[Resource], policy: Policy, kind: str, path: list[str | int], value: Any):
    assert list(policy(changed(made, kind, path, value)))


@pytest.mark.parametrize(("policy", "kind"), LACKING)
def test_a_policy_notices_what_lacks(made: list[Resource], policy: Policy, kind: str):
    assert list(policy(without(made, kind)))


@pytest.mark.parametrize(("policy", "kind", "values"), TOO_MUCH)
def test_a_policy_notices_what_should_not_be_there(made: list[Resource], policy: Policy, kind: str, values: dict[str, Any]):
    assert list(policy(with_one_more(made, kind, values)))


def test_machines_in_the_public_subnets_are_noticed(made: list[Resource]):
    (public, *_) = [r.values["id"] for r in made if r.address.startswith("module.network.aws_subnet.public")]
    assert list(policies.machines_are_in_private_subnets(changed(made, "aws_db_subnet_group", ["subnet_ids"], [public])))
    assert list(policies.machines_are_in_private_subnets(changed(made, "aws_eks_node_group", ["subnet_ids"], [public])))


def test_the_outputs_are_values_that_the_chart_takes(values: dict[str, Any], rendered: list[Object]):
    accounts = {item["metadata"]["name"]: item["metadata"].get("annotations", {}) for item in of_kind(rendered, "ServiceAccount")}
    for name in ("worker", "mlflow", "engine"):
        assert accounts[f"seatrial-{name}"] == values["serviceAccounts"][name]


def test_engines_are_told_of_the_gpus_that_the_nodes_have(values: dict[str, Any], rendered: list[Object]):
    assert values["engines"].keys() <= {field.name for field in fields(KubernetesPolicy)}
    (settings,) = [item["data"] for item in of_kind(rendered, "ConfigMap") if item["metadata"]["name"] == "seatrial-settings"]
    memory_bytes = int(settings["SEATRIAL_KUBERNETES_GPU_MEMORY_BYTES"])
    assert 20 * GIB < memory_bytes <= 24_000_000_000  # a g6.2xlarge: one L4 of 24 GB
    assert settings["SEATRIAL_KUBERNETES_MOST_GPUS"] == "1"


def test_the_spool_has_a_storage_class_that_encrypts(state: dict[str, Any], rendered: list[Object]):
    storage = yaml.safe_load(state["outputs"]["storage_class"]["value"])
    assert storage["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert storage["provisioner"] == "ebs.csi.aws.com"
    assert storage["parameters"]["encrypted"] == "true"
    claims = [claim for s in of_kind(rendered, "StatefulSet") for claim in s["spec"].get("volumeClaimTemplates", ())]
    assert [claim["spec"]["storageClassName"] for claim in claims] == [storage["metadata"]["name"]]


def test_the_autoscaler_changes_groups_of_its_own_cluster_only(state: dict[str, Any], made: list[Resource]):
    (policy,) = [r for r in made if r.address == "module.cluster.aws_iam_role_policy.autoscaler"]
    for statement in json.loads(policy.values["policy"])["Statement"]:
        if {"autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"} & set(statement["Action"]):
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/k8s.io/cluster-autoscaler/seatrial": "owned"}}
    (role,) = [r for r in made if r.address == "module.cluster.aws_iam_role.autoscaler"]
    account = yaml.safe_load(state["outputs"]["autoscaler_values"]["value"])["rbac"]["serviceAccount"]
    (trust,) = json.loads(role.values["assume_role_policy"])["Statement"]
    assert trust["Condition"]["StringEquals"]["oidc.example/id/1:sub"] == f"system:serviceaccount:kube-system:{account['name']}"
    assert account["annotations"] == {"eks.amazonaws.com/role-arn": role.values["arn"]}


def test_the_autoscaler_knows_what_a_node_would_have_that_is_not_there_yet(state: dict[str, Any], made: list[Resource]):
    """From zero nodes it has nothing to look at but the tags: they must say what the node group gives its nodes."""
    for group in (r for r in made if r.type == "aws_eks_node_group"):
        pool = group.values["node_group_name"]
        tags = {tag["key"]: tag["value"] for tag in _tags(made, pool)}
        template = "k8s.io/cluster-autoscaler/node-template"
        cluster = yaml.safe_load(state["outputs"]["autoscaler_values"]["value"])["autoDiscovery"]["clusterName"]
        expected = {"k8s.io/cluster-autoscaler/enabled": "true", f"k8s.io/cluster-autoscaler/{cluster}": "owned"}
        expected |= {f"{template}/label/{name}": value for name, value in group.values["labels"].items()}
        expected |= {f"{template}/taint/{taint['key']}": f"{taint['value']}:NoSchedule" for taint in group.values["taint"]}
        expected |= {f"{template}/resources/nvidia.com/gpu": "1"} if pool == "gpu" else {}
        assert tags == expected


def test_the_roles_trust_exactly_the_service_accounts_of_the_chart(made: list[Resource]):
    accounts = {f"system:serviceaccount:seatrial:{item['metadata']['name']}" for item in of_kind(chart_objects(), "ServiceAccount")}
    trusted = set()
    for resource in made:
        if resource.type == "aws_iam_role" and "identity" in resource.address:
            conditions = json.loads(resource.values["assume_role_policy"])["Statement"][0]["Condition"]["StringEquals"]
            trusted |= {value for name, value in conditions.items() if name.endswith(":sub")}
    assert len(trusted) == 3
    assert trusted <= accounts


@pytest.mark.parametrize(("account", "source"), S3_CALLERS)
def test_a_role_may_do_what_its_code_asks_of_s3(made: list[Resource], account: str, source: str):
    called = operations(REPOSITORY / source) - {"get_paginator"}
    assert called
    assert called <= ON_OBJECTS.keys() | ON_BUCKET.keys(), "tell tests/equipment/s3_rights.py which action it needs"
    (policy,) = [r for r in made if r.address == f'module.identity.aws_iam_role_policy.this["{account}"]']
    granted = json.loads(policy.values["policy"])["Statement"]
    assert rights(called, ON_OBJECTS) <= _granted(granted, "arn:aws:s3:::bucket/weights/*")
    assert rights(called, ON_BUCKET) <= _granted(granted, "arn:aws:s3:::bucket")


@pytest.mark.parametrize("account", ["worker", "engine", "mlflow"])
def test_a_key_that_is_not_there_answers_404_and_not_403(made: list[Resource], account: str):
    (policy,) = [r for r in made if r.address == f'module.identity.aws_iam_role_policy.this["{account}"]']
    (listing,) = [s for s in json.loads(policy.values["policy"])["Statement"] if "s3:ListBucket" in s["Action"]]
    assert listing["Resource"] == ["arn:aws:s3:::bucket"]
    assert "Condition" not in listing  # S3 says 404 only to who may list the bucket, and reading a key carries no prefix


def test_addons_take_over_what_a_new_cluster_comes_with(made: list[Resource]):
    addons = {r.values["addon_name"]: r.values for r in made if r.type == "aws_eks_addon"}
    assert addons.keys() == {"vpc-cni", "kube-proxy", "coredns", "aws-ebs-csi-driver"}
    for name, values in addons.items():
        assert values["resolve_conflicts_on_create"] == "OVERWRITE", name
        assert values["resolve_conflicts_on_update"] == "OVERWRITE", name
    assert json.loads(addons["vpc-cni"]["configuration_values"]) == {"enableNetworkPolicy": "true"}


def test_no_registry_module_and_no_password_stands_in_the_files():
    for path in SOURCE.rglob("*.tf"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*password\s*=", text, re.MULTILINE), path
        for source in re.findall(r'module "[^"]+" \{\s*source\s*=\s*"([^"]+)"', text):
            assert source.startswith("./"), path


def _tags(made: list[Resource], pool: str) -> Iterator[dict[str, Any]]:
    for resource in made:
        if resource.type == "aws_autoscaling_group_tag" and f'this["{pool}/' in resource.address:
            yield from resource.values["tag"]


def _granted(statements: list[dict[str, Any]], resource: str) -> set[str]:
    granted = [s for s in statements if s["Effect"] == "Allow" and resource in s["Resource"] and "Condition" not in s]
    return {action for statement in granted for action in statement["Action"]}
