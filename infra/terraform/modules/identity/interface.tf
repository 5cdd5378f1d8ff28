variable "name" { type = string }
variable "issuer" { type = string }
variable "provider_arn" { type = string }
variable "namespace" { type = string }
variable "release" { type = string }
variable "bucket_arn" { type = string }
variable "key_arn" { type = string }

output "roles" { value = { for account, role in aws_iam_role.this : account => role.arn } }
