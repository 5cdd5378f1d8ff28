# Redis with a replica: encrypted at rest and on the way, reachable from the nodes only.

resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnets
}

resource "aws_security_group" "this" {
  name        = "${var.name}-cache"
  description = "Redis, from the nodes"
  vpc_id      = var.vpc
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  for_each                     = var.callers
  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
  description                  = each.key
}

resource "aws_kms_key" "this" {
  description             = "${var.name}: cache"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id       = var.name
  description                = "${var.name}: conversations and limits of several gateways"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.type
  num_cache_clusters         = 2
  automatic_failover_enabled = true
  multi_az_enabled           = true
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.this.id]
  at_rest_encryption_enabled = true
  kms_key_id                 = aws_kms_key.this.arn
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  snapshot_retention_limit   = 1
  apply_immediately          = false
}
