# PostgreSQL for seatrial, Prefect and MLflow (three databases of one server): encrypted, over TLS only, reachable from the nodes only.

resource "aws_kms_key" "this" {
  description             = "${var.name}: database"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnets
}

resource "aws_security_group" "this" {
  name        = "${var.name}-database"
  description = "PostgreSQL, from the nodes"
  vpc_id      = var.vpc
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  for_each                     = var.callers
  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  description                  = each.key
}

resource "aws_db_parameter_group" "this" {
  name   = var.name
  family = "postgres17"
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }
}

resource "aws_db_instance" "this" {
  identifier                      = var.name
  engine                          = "postgres"
  engine_version                  = "17"
  instance_class                  = var.settings.class
  allocated_storage               = var.settings.storage_gib
  max_allocated_storage           = var.settings.storage_gib * 10
  storage_type                    = "gp3"
  storage_encrypted               = true
  kms_key_id                      = aws_kms_key.this.arn
  db_name                         = "seatrial"
  username                        = "seatrial_admin"
  manage_master_user_password     = true
  parameter_group_name            = aws_db_parameter_group.this.name
  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [aws_security_group.this.id]
  publicly_accessible             = false
  multi_az                        = var.settings.standby
  backup_retention_period         = var.settings.backup_days
  copy_tags_to_snapshot           = true
  auto_minor_version_upgrade      = true
  performance_insights_enabled    = true
  enabled_cloudwatch_logs_exports = ["postgresql", "upgrade"]
  deletion_protection             = !var.deletable
  skip_final_snapshot             = var.deletable
  final_snapshot_identifier       = var.deletable ? null : "${var.name}-final"
}
