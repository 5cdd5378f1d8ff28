output "values" {
  description = "The chart's values that come from here: `terraform output -raw values > aws-values.yaml`"
  value = yamlencode({
    weights = { url = "s3://${module.storage.bucket}/weights", region = var.region }
    mlflow  = { artifacts = "s3://${module.storage.bucket}/mlflow" }
    gateway = { spool = { storageClass = local.storage_class } }
    serviceAccounts = {
      for account, arn in module.identity.roles : account => { "eks.amazonaws.com/role-arn" = arn }
    }
    engines = {
      gpu_resource     = "nvidia.com/gpu"
      gpu_memory_bytes = var.gpu_nodes.gpu_memory_gib * 1024 * 1024 * 1024
      most_gpus        = var.gpu_nodes.gpus
      node_selector    = "seatrial.dev/pool=gpu"
      grows            = 1
    }
  })
}

output "autoscaler_values" {
  description = "Values of cluster-autoscaler's own chart: `terraform output -raw autoscaler_values > autoscaler.yaml`; docs/terraform.md has the command"
  value = yamlencode({
    autoDiscovery = { clusterName = module.cluster.name }
    awsRegion     = var.region
    image         = { tag = "v${var.kubernetes_version}.0" } # each release is for one version of Kubernetes
    rbac = { serviceAccount = {
      name        = "cluster-autoscaler"
      annotations = { "eks.amazonaws.com/role-arn" = module.cluster.autoscaler_role }
    } }
  })
}

output "storage_class" {
  description = "Encrypted volumes, and the cluster's default (EKS has none): `terraform output -raw storage_class | kubectl apply -f -`, before the chart"
  value = yamlencode({
    apiVersion           = "storage.k8s.io/v1"
    kind                 = "StorageClass"
    metadata             = { name = local.storage_class, annotations = { "storageclass.kubernetes.io/is-default-class" = "true" } }
    provisioner          = "ebs.csi.aws.com"
    parameters           = { type = "gp3", encrypted = "true" } # the class that the add-on itself can make does not encrypt
    volumeBindingMode    = "WaitForFirstConsumer"               # in the zone where its pod goes
    allowVolumeExpansion = true
  })
}

output "cluster" {
  description = "Name of the cluster: `aws eks update-kubeconfig --name NAME`"
  value       = module.cluster.name
}

output "database" {
  description = "Where PostgreSQL answers, and the Secrets Manager entry of its master user (AWS makes and rotates the password)"
  value       = { address = module.database.address, port = module.database.port, master_secret = module.database.master_secret }
}

output "redis" {
  description = "Where Redis answers (TLS); null without `cache`"
  value       = one(module.cache[*].address)
}

output "bucket" {
  description = "The bucket of weights and of MLflow's artifacts"
  value       = module.storage.bucket
}

locals {
  storage_class = "${var.name}-encrypted"
}
