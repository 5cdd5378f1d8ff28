# `terraform test`: what must hold of every plan, without any cloud. The same and more is asserted of the plan's JSON in tests/rendered.
mock_provider "aws" {
  mock_resource "aws_eks_cluster" {
    defaults = {
      arn        = "arn:aws:eks:eu-central-1:123456789012:cluster/seatrial"
      identity   = [{ oidc = [{ issuer = "https://oidc.example/id/1" }] }]
      vpc_config = { cluster_security_group_id = "sg-nodes" }
    }
  }
  mock_resource "aws_eks_node_group" {
    defaults = {
      arn       = "arn:aws:eks:eu-central-1:123456789012:nodegroup/seatrial/pool/1"
      resources = [{ autoscaling_groups = [{ name = "eks-pool-1" }] }]
    }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::123456789012:oidc-provider/oidc.example/id/1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/some" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::bucket" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:x" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
}

variables {
  region     = "eu-central-1"
  account_id = "123456789012"
  zones      = ["eu-central-1a", "eu-central-1b"]
}

run "the_bucket_is_closed_encrypted_versioned_and_tidy" {
  command = apply
  module { source = "./modules/storage" }
  variables {
    name      = "weights"
    kept_days = 30
    deletable = false
  }
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls, aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls, aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "some way to make the bucket public is open"
  }
  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "aws:kms"
    error_message = "not encrypted with our key"
  }
  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "not versioned"
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this.rule) == 2 && !aws_s3_bucket.this.force_destroy
    error_message = "cut-off uploads and old versions are not cleared away, or the bucket may be destroyed with its content"
  }
}

run "each_role_is_trusted_by_one_service_account_and_engines_cannot_write" {
  command = apply
  module { source = "./modules/identity" }
  variables {
    name         = "seatrial"
    issuer       = "oidc.example/id/1"
    provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.example/id/1"
    namespace    = "models"
    release      = "st"
    bucket_arn   = "arn:aws:s3:::bucket"
    key_arn      = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["engine"].assume_role_policy).Statement[0].Condition.StringEquals["oidc.example/id/1:sub"] == "system:serviceaccount:models:st-engine"
    error_message = "the engine's role is trusted by another account"
  }
  assert {
    condition     = !strcontains(aws_iam_role_policy.this["engine"].policy, "Put") && !strcontains(aws_iam_role_policy.this["engine"].policy, "Delete")
    error_message = "an engine may write weights"
  }
  assert {
    condition     = alltrue([for right in aws_iam_role_policy.this : alltrue([for s in jsondecode(right.policy).Statement : alltrue([for a in s.Action : !strcontains(a, "*")])])])
    error_message = "a wildcard action"
  }
}

run "everything_together_gives_the_charts_values" {
  command = apply
  variables { cache = true }
  assert {
    condition     = yamldecode(output.values).weights.url == "s3://${output.bucket}/weights"
    error_message = "the chart would look for weights elsewhere"
  }
  assert {
    condition     = sort(keys(yamldecode(output.values).serviceAccounts)) == tolist(["engine", "mlflow", "worker"])
    error_message = "a service account without its role"
  }
  assert {
    condition     = strcontains(output.bucket, var.account_id)
    error_message = "bucket names are global: the account's number keeps ours apart"
  }
}

run "nobody_pays_for_a_cache_that_was_not_asked_for" {
  command = plan
  assert {
    condition     = output.redis == null && length(module.cache) == 0
    error_message = "a cache is made by default"
  }
}

run "the_whole_internet_may_not_reach_the_api" {
  command = plan
  variables { api_callers = ["0.0.0.0/0"] }
  expect_failures = [var.api_callers]
}

run "half_the_internet_may_not_reach_the_api" {
  command = plan
  variables { api_callers = ["203.0.113.0/24", "128.0.0.0/1"] }
  expect_failures = [var.api_callers]
}

run "the_api_is_reached_by_the_callers_that_were_named_and_no_others" {
  command = apply
  module { source = "./modules/cluster" }
  variables {
    name               = "seatrial"
    kubernetes_version = "1.34"
    subnets            = ["subnet-1", "subnet-2"]
    api_callers        = ["203.0.113.0/24"]
    cpu_nodes          = { type = "m7i.xlarge", min = 2, max = 6 }
    gpu_nodes          = { type = "g6.2xlarge", gpus = 1, min = 0, max = 4 }
  }
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].public_access_cidrs == toset(["203.0.113.0/24"]) && aws_eks_cluster.this.vpc_config[0].endpoint_private_access
    error_message = "others reach the API, or the nodes do not"
  }
}

run "one_zone_is_too_few" {
  command = plan
  variables { zones = ["eu-central-1a"] }
  expect_failures = [var.zones]
}

run "a_model_cannot_be_split_over_three_gpus" {
  command = plan
  variables { gpu_nodes = { type = "g6.12xlarge", gpus = 3, gpu_memory_gib = 22, min = 0, max = 4 } }
  expect_failures = [var.gpu_nodes]
}

run "memory_of_a_gpu_in_bytes_is_no_gib" {
  command = plan
  variables { gpu_nodes = { type = "g6.12xlarge", gpus = 4, gpu_memory_gib = 24000000000, min = 0, max = 4 } }
  expect_failures = [var.gpu_nodes]
}

run "no_gpu_nodes_at_all_would_leave_every_engine_waiting" {
  command = plan
  variables { gpu_nodes = { type = "g6.2xlarge", gpus = 1, gpu_memory_gib = 22, min = 0, max = 0 } }
  expect_failures = [var.gpu_nodes]
}

run "a_name_that_no_bucket_could_have_is_refused" {
  command = plan
  variables { name = "Sea_Trial" }
  expect_failures = [var.name]
}

run "a_name_with_two_hyphens_together_is_none_for_a_database" {
  command = plan
  variables { name = "a--b" }
  expect_failures = [var.name]
}

run "a_name_that_ends_with_a_hyphen_is_none_for_a_database" {
  command = plan
  variables { name = "a-" }
  expect_failures = [var.name]
}
