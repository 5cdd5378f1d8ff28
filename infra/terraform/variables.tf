variable "name" {
  description = "Name of the installation; every resource's name begins with it"
  type        = string
  default     = "seatrial"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "name: 2 to 21 small letters, digits and single hyphens, a letter first, no hyphen last: names of bucket, database and cache begin with it."
  }
}

variable "region" {
  description = "AWS region"
  type        = string
}

variable "account_id" {
  description = "AWS account; part of the bucket's name and of the trust policies"
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id: twelve digits."
  }
}

variable "zones" {
  description = "Availability zones, two at least (RDS and EKS need two)"
  type        = list(string)
  validation {
    condition     = length(var.zones) >= 2 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones: two or more, each once."
  }
}

variable "cidr" {
  description = "Addresses of the VPC"
  type        = string
  default     = "10.40.0.0/16"
}

variable "namespace" {
  description = "Kubernetes namespace of the chart; the roles trust its service accounts only"
  type        = string
  default     = "seatrial"
}

variable "release" {
  description = "Name of the Helm release; its service accounts are RELEASE-worker, RELEASE-mlflow and RELEASE-engine"
  type        = string
  default     = "seatrial"
}

variable "kubernetes_version" {
  description = "Version of EKS"
  type        = string
  default     = "1.34"
}

variable "api_callers" {
  description = "CIDRs that may reach the cluster's API from the internet; empty: from inside the VPC only"
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for caller in var.api_callers : try(cidrhost(caller, 0) != "" && tonumber(split("/", caller)[1]) >= 8, false)])
    error_message = "api_callers: name your networks as ADDRESS/BITS, 8 bits at least; the whole internet, or half of it, is none."
  }
}

variable "cpu_nodes" {
  description = "Nodes of the platform itself"
  type        = object({ type = string, min = number, max = number })
  default     = { type = "m7i.xlarge", min = 2, max = 6 }
}

variable "gpu_nodes" {
  description = "Nodes of the engines, with the GPUs of one node and the GiB that one GPU has; min 0 lets an idle installation cost none"
  type        = object({ type = string, gpus = number, gpu_memory_gib = number, min = number, max = number })
  default     = { type = "g6.2xlarge", gpus = 1, gpu_memory_gib = 22, min = 0, max = 4 } # one L4: 24 GB are 22.4 GiB
  validation {
    condition     = contains([1, 2, 4, 8, 16], var.gpu_nodes.gpus)
    error_message = "gpu_nodes.gpus: of one node: 1, 2, 4, 8 or 16, as a model is split over them."
  }
  validation {
    condition     = var.gpu_nodes.gpu_memory_gib >= 8 && var.gpu_nodes.gpu_memory_gib <= 1024 && floor(var.gpu_nodes.gpu_memory_gib) == var.gpu_nodes.gpu_memory_gib
    error_message = "gpu_nodes.gpu_memory_gib: whole GiB of ONE GPU, rounded down; `aws ec2 describe-instance-types` tells MiB."
  }
  validation {
    condition     = var.gpu_nodes.min >= 0 && var.gpu_nodes.max >= max(var.gpu_nodes.min, 1)
    error_message = "gpu_nodes: min is 0 or more, max is 1 or more and not below min."
  }
}

variable "weights_kept_days" {
  description = "Days that a deleted or replaced object of the bucket can be brought back"
  type        = number
  default     = 30
}

variable "database" {
  description = "PostgreSQL: instance class, storage in GiB, days of backups, a standby in a second zone"
  type        = object({ class = string, storage_gib = number, backup_days = number, standby = bool })
  default     = { class = "db.t4g.medium", storage_gib = 50, backup_days = 14, standby = true }
}

variable "cache" {
  description = "true: make Redis (ElastiCache). Nothing needs it yet: one gateway keeps conversations in its memory, several will share Redis"
  type        = bool
  default     = false
}

variable "cache_type" {
  description = "Node type of Redis"
  type        = string
  default     = "cache.t4g.small"
}

variable "deletable" {
  description = "true: `terraform destroy` may take the database and the bucket's content along; for trials only"
  type        = bool
  default     = false
}
