variable "name" { type = string }
variable "cidr" { type = string }
variable "zones" { type = list(string) }
variable "region" { type = string }

output "vpc" { value = aws_vpc.this.id }
output "private_subnets" { value = [for zone in var.zones : aws_subnet.private[zone].id] }
