# A role per service account that touches S3 (IRSA). The worker writes weights, engines only read them, MLflow has its own prefix.

resource "aws_iam_role" "this" {
  for_each = local.rights
  name     = "${var.name}-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.provider_arn }
      Condition = { StringEquals = {
        "${var.issuer}:sub" = "system:serviceaccount:${var.namespace}:${var.release}-${each.key}"
        "${var.issuer}:aud" = "sts.amazonaws.com"
      } }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  for_each = local.rights
  name     = "bucket"
  role     = aws_iam_role.this[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = each.value.objects, Resource = ["${var.bucket_arn}/${each.value.prefix}/*"] },
      # No condition on s3:prefix: reading a key carries no prefix, so under one S3 would answer 403 instead of 404 for a key that is not there,
      # and absent weights would read as a fault of ours. The bucket is this installation's alone; names of objects are all that more is shown.
      { Effect = "Allow", Action = each.value.bucket, Resource = [var.bucket_arn] },
      { Effect = "Allow", Action = each.value.key, Resource = [var.key_arn] },
    ]
  })
}

locals {
  write = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
  rights = {
    worker = {
      prefix  = "weights"
      objects = local.write
      bucket  = ["s3:ListBucket", "s3:ListBucketMultipartUploads"] # deleting weights aborts the uploads that were cut off
      key     = ["kms:Decrypt", "kms:GenerateDataKey"]
    }
    engine = { prefix = "weights", objects = ["s3:GetObject"], bucket = ["s3:ListBucket"], key = ["kms:Decrypt"] }
    mlflow = { prefix = "mlflow", objects = local.write, bucket = ["s3:ListBucket"], key = ["kms:Decrypt", "kms:GenerateDataKey"] }
  }
}
