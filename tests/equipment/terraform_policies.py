"""What must hold of whatever terraform makes: each policy yields what breaks it, in words, and nothing where it holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.equipment.terraform import Resource

Policy = Callable[[Sequence[Resource]], Iterator[str]]

_CLOSED = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
_OPENERS = {"aws_s3_bucket_acl", "aws_s3_bucket_website_configuration", "aws_s3_object_acl"}
_MANAGED = {
    "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy",
    "arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy",
    "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly",
    "arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy",
    "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy",
}
_NARROWED_BY_NOTHING = {  # reads for which AWS knows no resource
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLaunchConfigurations",
    "autoscaling:DescribeScalingActivities",
    "autoscaling:DescribeTags",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:GetInstanceTypesFromInstanceRequirements",
}
_ON = {True, "true"}
_SHORTEST_BACKUP_DAYS = 7


def of_type(made: Sequence[Resource], *kinds: str) -> list[Resource]:
    """Choose by type."""
    return [resource for resource in made if resource.type in kinds]


def no_bucket_can_become_public(made: Sequence[Resource]) -> Iterator[str]:
    """Every bucket has all four blocks, and nothing that would open one is there."""
    blocks = {block.values["bucket"]: block.values for block in of_type(made, "aws_s3_bucket_public_access_block")}
    for bucket in of_type(made, "aws_s3_bucket"):
        block = blocks.get(bucket.values["id"], {})
        yield from (f"{bucket.address}: {name} is off" for name in _CLOSED if block.get(name) is not True)
    yield from (f"{resource.address} may open a bucket" for resource in of_type(made, *_OPENERS))


def nothing_is_granted_by_a_wildcard(made: Sequence[Resource]) -> Iterator[str]:
    """No action, principal or resource by `*`; only reads that AWS cannot narrow have every resource. Denials may be wide."""
    for resource, statement in _statements(made):
        if statement["Effect"] == "Deny":
            continue
        actions = set(_list(statement.get("Action", ())))
        everywhere = any(name in {"*", "arn:aws:s3:::*"} for name in _list(statement.get("Resource", ())))
        if not actions or any("*" in action for action in actions):
            yield f"{resource.address}: actions {sorted(actions)}"
        if "NotResource" in statement or (everywhere and not actions <= _NARROWED_BY_NOTHING):
            yield f"{resource.address}: {sorted(actions)} on everything"
        if "*" in json.dumps(statement.get("Principal", "")):
            yield f"{resource.address}: anybody may"


def only_policies_of_aws_that_we_chose_are_attached(made: Sequence[Resource]) -> Iterator[str]:
    """Nodes, cluster and disks have what EKS asks for; whatever else is granted stands in a policy of ours."""
    for resource in of_type(made, "aws_iam_role_policy_attachment", "aws_iam_policy_attachment"):
        if resource.values["policy_arn"] not in _MANAGED:
            yield f"{resource.address}: {resource.values['policy_arn']}"


def everything_that_holds_data_is_encrypted(made: Sequence[Resource]) -> Iterator[str]:
    """At rest and on the way, by keys that rotate; the master's password is made by AWS and in no file."""
    encrypted = {one.values["bucket"]: one.values for one in of_type(made, "aws_s3_bucket_server_side_encryption_configuration")}
    for bucket in of_type(made, "aws_s3_bucket"):
        if not _by_our_key(encrypted.get(bucket.values["id"], {})):
            yield f"{bucket.address} is not encrypted with our key"
    for resource in of_type(made, *_ENCRYPTED):
        if not _ENCRYPTED[resource.type](resource.values):
            yield f"{resource.address} is not encrypted as it should be"


def only_the_nodes_come_in(made: Sequence[Resource]) -> Iterator[str]:
    """What a security group lets in, it lets in from the nodes' group, by a resource of its own."""
    nodes = {one.values["vpc_config"][0]["cluster_security_group_id"] for one in of_type(made, "aws_eks_cluster")}
    for rule in of_type(made, "aws_vpc_security_group_ingress_rule"):
        others = [rule.values.get(name) for name in ("cidr_ipv4", "cidr_ipv6", "prefix_list_id")]
        if rule.values["referenced_security_group_id"] not in nodes or any(others):
            yield f"{rule.address} lets in others than the nodes"
    for group in of_type(made, "aws_security_group", "aws_default_security_group"):
        if group.values.get("ingress"):
            yield f"{group.address} lets in by a rule inside it"
    yield from (f"{rule.address} is a rule of the old kind" for rule in of_type(made, "aws_security_group_rule"))


def nothing_has_a_public_address(made: Sequence[Resource]) -> Iterator[str]:
    """Neither database nor API (without `api_callers`) nor machines."""
    for database in of_type(made, "aws_db_instance"):
        if database.values["publicly_accessible"] is not False:
            yield f"{database.address} has a public address"
    for cluster in of_type(made, "aws_eks_cluster"):
        if cluster.values["vpc_config"][0]["endpoint_public_access"] is not False:
            yield f"{cluster.address}: its API has a public address"
    for subnet in of_type(made, "aws_subnet"):
        if subnet.values.get("map_public_ip_on_launch"):
            yield f"{subnet.address} gives public addresses"


def pods_cannot_reach_the_credentials_of_nodes(made: Sequence[Resource]) -> Iterator[str]:
    """The metadata service wants a token, which gets no further than the node itself."""
    for template in of_type(made, "aws_launch_template"):
        reach = template.values["metadata_options"][0]
        if reach["http_tokens"] != "required" or reach["http_put_response_hop_limit"] != 1:
            yield f"{template.address}: pods reach the nodes' credentials"


def machines_are_in_private_subnets(made: Sequence[Resource]) -> Iterator[str]:
    """Cluster, nodes, database and cache are in subnets from which no route leads to an internet gateway."""
    open_tables = {route.values["route_table_id"] for route in of_type(made, "aws_route") if route.values.get("gateway_id")}
    tables = {one.values["subnet_id"]: one.values["route_table_id"] for one in of_type(made, "aws_route_table_association")}
    private = {subnet for subnet, table in tables.items() if table not in open_tables}
    for resource in of_type(made, "aws_eks_cluster", "aws_eks_node_group", "aws_db_subnet_group", "aws_elasticache_subnet_group"):
        subnets = resource.values.get("subnet_ids") or resource.values["vpc_config"][0]["subnet_ids"]
        if not set(subnets) <= private:
            yield f"{resource.address} is in a public subnet"


def data_outlives_a_mistake(made: Sequence[Resource]) -> Iterator[str]:
    """A destroy stops at the database and at a bucket that is not empty; backups reach back a week at least."""
    for database in of_type(made, "aws_db_instance"):
        kept = database.values["deletion_protection"] is True and database.values["skip_final_snapshot"] is False
        if not kept or database.values["backup_retention_period"] < _SHORTEST_BACKUP_DAYS:
            yield f"{database.address} can be lost"
    for bucket in of_type(made, "aws_s3_bucket"):
        if bucket.values["force_destroy"] is not False:
            yield f"{bucket.address} may be destroyed with its content"


def _by_our_key(encryption: dict[str, Any]) -> bool:
    defaults = [one for rule in encryption.get("rule", ()) for one in rule["apply_server_side_encryption_by_default"]]
    return bool(defaults) and all(one["sse_algorithm"] == "aws:kms" and bool(one["kms_master_key_id"]) for one in defaults)


def _database(values: dict[str, Any]) -> bool:
    return values["storage_encrypted"] is True and bool(values["kms_key_id"]) and values["manage_master_user_password"] is True


def _parameters(values: dict[str, Any]) -> bool:
    return any(one["name"] == "rds.force_ssl" and one["value"] == "1" for one in values["parameter"])


def _cache(values: dict[str, Any]) -> bool:
    on_the_way = values["transit_encryption_enabled"] is True and values["transit_encryption_mode"] == "required"
    return values["at_rest_encryption_enabled"] in _ON and on_the_way


_ENCRYPTED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "aws_kms_key": lambda values: values["enable_key_rotation"] is True,
    "aws_db_instance": _database,
    "aws_db_parameter_group": _parameters,
    "aws_elasticache_replication_group": _cache,
    "aws_launch_template": lambda values: all(disk["ebs"][0]["encrypted"] in _ON for disk in values["block_device_mappings"]),
    "aws_eks_cluster": lambda values: [one["resources"] for one in values["encryption_config"]] == [["secrets"]],
}


def _statements(made: Sequence[Resource]) -> Iterator[tuple[Resource, dict[str, Any]]]:
    for resource in made:
        for name in ("policy", "assume_role_policy"):
            text = resource.values.get(name)
            if isinstance(text, str) and text.startswith("{"):
                yield from ((resource, statement) for statement in json.loads(text)["Statement"])


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
