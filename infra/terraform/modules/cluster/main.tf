# EKS with its secrets encrypted, its audit log kept, and two groups of nodes: the platform's and the engines'.

resource "aws_kms_key" "secrets" {
  description             = "${var.name}: Kubernetes secrets"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_iam_role" "cluster" {
  name = "${var.name}-cluster"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = ["sts:AssumeRole", "sts:TagSession"], Principal = { Service = "eks.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"
}

resource "aws_cloudwatch_log_group" "cluster" {
  name              = "/aws/eks/${var.name}/cluster"
  retention_in_days = 90
}

resource "aws_eks_cluster" "this" {
  name                      = var.name
  version                   = var.kubernetes_version
  role_arn                  = aws_iam_role.cluster.arn
  enabled_cluster_log_types = ["api", "audit", "authenticator", "scheduler", "controllerManager"]

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = true
  }

  vpc_config {
    subnet_ids              = var.subnets
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_callers) > 0
    public_access_cidrs     = length(var.api_callers) > 0 ? var.api_callers : null
  }

  encryption_config {
    resources = ["secrets"]
    provider { key_arn = aws_kms_key.secrets.arn }
  }

  depends_on = [aws_iam_role_policy_attachment.cluster, aws_cloudwatch_log_group.cluster]
}

resource "aws_iam_openid_connect_provider" "this" {
  url            = aws_eks_cluster.this.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "nodes" {
  name = "${var.name}-nodes"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryReadOnly", "AmazonEKS_CNI_Policy"])
  role       = aws_iam_role.nodes.name
  policy_arn = "arn:aws:iam::aws:policy/${each.key}"
}

# Encrypted disks, and a metadata service that pods cannot reach: a pod has its own role or none.
resource "aws_launch_template" "nodes" {
  for_each = local.pools
  name     = "${var.name}-${each.key}"

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size           = each.value.disk_gib
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-${each.key}" }
  }
}

resource "aws_eks_node_group" "this" {
  for_each        = local.pools
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = var.subnets
  instance_types  = [each.value.type]
  ami_type        = each.value.ami
  labels          = each.value.labels

  scaling_config {
    min_size     = each.value.min
    max_size     = each.value.max
    desired_size = each.value.min
  }

  update_config { max_unavailable = 1 }

  launch_template {
    id      = aws_launch_template.nodes[each.key].id
    version = aws_launch_template.nodes[each.key].latest_version
  }

  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.key
      value  = taint.value
      effect = "NO_SCHEDULE"
    }
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }

  depends_on = [aws_iam_role_policy_attachment.nodes]
}

# A new cluster comes with these three installed by EKS itself, without which no node would become ready: the add-ons take them over.
# The network add-on enforces the chart's NetworkPolicies only when told to.
resource "aws_eks_addon" "this" {
  for_each                    = { vpc-cni = jsonencode({ enableNetworkPolicy = "true" }), kube-proxy = null, coredns = null }
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  configuration_values        = each.value
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE" # what stands here holds, not an edit by hand
  depends_on                  = [aws_eks_node_group.this]
}

# The spool of the gateway is a volume.
resource "aws_eks_addon" "disks" {
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = "aws-ebs-csi-driver"
  service_account_role_arn    = aws_iam_role.disks.arn
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"
  depends_on                  = [aws_eks_node_group.this, aws_iam_role_policy_attachment.disks]
}

resource "aws_iam_role" "disks" {
  name = "${var.name}-disks"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = aws_iam_openid_connect_provider.this.arn }
      Condition = { StringEquals = {
        "${local.issuer}:sub" = "system:serviceaccount:kube-system:ebs-csi-controller-sa"
        "${local.issuer}:aud" = "sts.amazonaws.com"
      } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "disks" {
  role       = aws_iam_role.disks.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

# What cluster-autoscaler finds the groups by, and what it must know of a node that is not there yet: without this no GPU node would ever come.
resource "aws_autoscaling_group_tag" "this" {
  for_each               = merge([for pool, tags in local.autoscaler_tags : { for key, value in tags : "${pool}/${key}" => { pool = pool, key = key, value = value } }]...)
  autoscaling_group_name = one(one(aws_eks_node_group.this[each.value.pool].resources).autoscaling_groups).name
  tag {
    key                 = each.value.key
    value               = each.value.value
    propagate_at_launch = false
  }
}

resource "aws_iam_role" "autoscaler" {
  name = "${var.name}-autoscaler"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = aws_iam_openid_connect_provider.this.arn }
      Condition = { StringEquals = {
        "${local.issuer}:sub" = "system:serviceaccount:kube-system:cluster-autoscaler"
        "${local.issuer}:aud" = "sts.amazonaws.com"
      } }
    }]
  })
}

resource "aws_iam_role_policy" "autoscaler" {
  name = "nodes"
  role = aws_iam_role.autoscaler.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow" # AWS lets none of these be narrowed to a resource
        Action = [
          "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLaunchConfigurations",
          "autoscaling:DescribeScalingActivities", "autoscaling:DescribeTags",
          "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions", "ec2:GetInstanceTypesFromInstanceRequirements",
        ]
        Resource = "*"
      },
      { Effect = "Allow", Action = ["eks:DescribeNodegroup"], Resource = [for group in aws_eks_node_group.this : group.arn] },
      {
        Effect    = "Allow"
        Action    = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
        Resource  = ["arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/*"] # EKS makes up the names
        Condition = { StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.name}" = "owned" } }
      },
    ]
  })
}

locals {
  issuer = replace(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://", "")
  pools = {
    cpu = {
      type     = var.cpu_nodes.type
      min      = var.cpu_nodes.min
      max      = var.cpu_nodes.max
      ami      = "AL2023_x86_64_STANDARD"
      disk_gib = 200
      labels   = { "seatrial.dev/pool" = "cpu" }
      taints   = {}
      gives    = {}
    }
    gpu = {
      type     = var.gpu_nodes.type
      min      = var.gpu_nodes.min
      max      = var.gpu_nodes.max
      ami      = "AL2023_x86_64_NVIDIA"
      disk_gib = 200
      # The second: the autoscaler waits for a new node's GPUs to show instead of adding another node meanwhile.
      labels = { "seatrial.dev/pool" = "gpu", "k8s.amazonaws.com/accelerator" = "nvidia" }
      taints = { "nvidia.com/gpu" = "present" }
      gives  = { "nvidia.com/gpu" = tostring(var.gpu_nodes.gpus) }
    }
  }
  autoscaler_tags = { for name, pool in local.pools : name => merge(
    { "k8s.io/cluster-autoscaler/enabled" = "true", "k8s.io/cluster-autoscaler/${var.name}" = "owned" },
    { for label, value in pool.labels : "k8s.io/cluster-autoscaler/node-template/label/${label}" => value },
    { for taint, value in pool.taints : "k8s.io/cluster-autoscaler/node-template/taint/${taint}" => "${value}:NoSchedule" },
    { for resource, count in pool.gives : "k8s.io/cluster-autoscaler/node-template/resources/${resource}" => count },
  ) }
}
