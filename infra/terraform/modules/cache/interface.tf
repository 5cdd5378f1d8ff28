variable "name" { type = string }
variable "vpc" { type = string }
variable "subnets" { type = list(string) }
variable "callers" { type = map(string) }
variable "type" { type = string }

output "address" { value = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379" }
