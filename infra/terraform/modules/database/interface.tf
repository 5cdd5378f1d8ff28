variable "name" { type = string }
variable "vpc" { type = string }
variable "subnets" { type = list(string) }
variable "callers" { type = map(string) }
variable "settings" { type = object({ class = string, storage_gib = number, backup_days = number, standby = bool }) }
variable "deletable" { type = bool }

output "address" { value = aws_db_instance.this.address }
output "port" { value = aws_db_instance.this.port }
output "master_secret" { value = one(aws_db_instance.this.master_user_secret[*].secret_arn) }
