# What lies under the chart on AWS. Modules are ours: each is one file of resources, one of variables and outputs.

module "network" {
  source = "./modules/network"
  name   = var.name
  cidr   = var.cidr
  zones  = var.zones
  region = var.region
}

module "cluster" {
  source             = "./modules/cluster"
  name               = var.name
  kubernetes_version = var.kubernetes_version
  subnets            = module.network.private_subnets
  api_callers        = var.api_callers
  cpu_nodes          = var.cpu_nodes
  gpu_nodes          = var.gpu_nodes
}

module "storage" {
  source    = "./modules/storage"
  name      = "${var.name}-${var.account_id}-${var.region}"
  kept_days = var.weights_kept_days
  deletable = var.deletable
}

module "database" {
  source    = "./modules/database"
  name      = var.name
  vpc       = module.network.vpc
  subnets   = module.network.private_subnets
  callers   = { nodes = module.cluster.node_security_group }
  settings  = var.database
  deletable = var.deletable
}

# Only where it is asked for: so far nothing but the doctor reads redis-url.
module "cache" {
  count   = var.cache ? 1 : 0
  source  = "./modules/cache"
  name    = var.name
  vpc     = module.network.vpc
  subnets = module.network.private_subnets
  callers = { nodes = module.cluster.node_security_group }
  type    = var.cache_type
}

module "identity" {
  source       = "./modules/identity"
  name         = var.name
  issuer       = module.cluster.issuer
  provider_arn = module.cluster.provider_arn
  namespace    = var.namespace
  release      = var.release
  bucket_arn   = module.storage.bucket_arn
  key_arn      = module.storage.key_arn
}
