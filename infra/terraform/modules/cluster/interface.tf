variable "name" { type = string }
variable "kubernetes_version" { type = string }
variable "subnets" { type = list(string) }
variable "api_callers" { type = list(string) }
variable "cpu_nodes" { type = object({ type = string, min = number, max = number }) }
variable "gpu_nodes" { type = object({ type = string, gpus = number, min = number, max = number }) }

output "name" { value = aws_eks_cluster.this.name }
output "issuer" { value = local.issuer }
output "provider_arn" { value = aws_iam_openid_connect_provider.this.arn }
output "node_security_group" { value = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id }
output "autoscaler_role" { value = aws_iam_role.autoscaler.arn }
